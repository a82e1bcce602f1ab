"""`bouchet keys` and `bouchet usage`."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from bouchet_cli.commands.keys import lines_to_paste
from bouchet_core.keys import sha256_of
from bouchet_core.usage import UsageRecord

from tests.api.ledger.entries import accounting, job, request
from tests.cli.harness import Bouchet, one_line_error
from tests.waiting import wait_for


def test_keys_add_prints_only_the_key_on_stdout(bouchet: Bouchet) -> None:
    options = "--requests-per-minute 60 --tokens-per-minute 200000 --expires 30d"
    done = bouchet("keys", "add", "alice", *options.split())
    assert done.status == 0, done.err
    (kept,) = bouchet.store.api_keys.all()
    assert kept.sha256 == sha256_of(done.out.strip())
    assert (kept.name, kept.requests_per_minute, kept.tokens_per_minute) == ("alice", 60, 200_000)
    assert done.out.strip() not in done.err


LAB = "https://llm.lab.example"
SHELLS = ("bash", "zsh", "fish", "dash")
VARIABLES = ("ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "OPENAI_BASE_URL", "OPENAI_API_KEY")


def test_lines_of_the_page_are_those_that_are_printed() -> None:
    page = (Path(__file__).parents[3] / "docs" / "lab.md").read_text()
    (shown,) = re.findall(r"^```bash\n((?:export .*\n)+)```$", page, re.M)
    assert shown.splitlines() == lines_to_paste(LAB, "KEY")


@pytest.mark.parametrize("url", [LAB, f"{LAB}/", f"{LAB}/it's (ours) & $HOME"])
@pytest.mark.parametrize("shell", [*SHELLS, "tcsh"])
def test_pasted_lines_set_the_variables_of_programs(shell: str, url: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    lines = lines_to_paste(url, "sk-bouchet-a_b-c")
    if shell == "tcsh":
        lines = [re.sub(r"export (\w+)=", r"setenv \1 ", line) for line in lines]
    text = "\n".join([*lines, f"env printenv {' '.join(VARIABLES)}", ""])
    options = ["-f"] if shell in ("tcsh", "zsh") else []
    done = subprocess.run([shell, *options], input=text, capture_output=True, text=True, check=True, timeout=30)
    base = url.rstrip("/")
    assert done.stdout.splitlines() == [base, "sk-bouchet-a_b-c", f"{base}/v1", "sk-bouchet-a_b-c"]


@pytest.mark.parametrize("columns", ["40", "120"])
def test_keys_add_on_a_terminal_prints_whole_lines_with_the_key(bouchet: Bouchet, columns: str) -> None:
    url = f"{LAB}/behind/a/rather/long/path"
    with bouchet.terminal("keys", "add", "alice", BOUCHET_PROXY_URL=url, COLUMNS=columns) as terminal:
        terminal.until("sk-bouchet-")
        status, rest = terminal.rest()
    key = f"sk-bouchet-{rest.split()[0]}"
    assert status == 0 and bouchet.store.api_keys.all()[0].sha256 == sha256_of(key)
    assert rest.replace("\r", "").splitlines()[-4:] == lines_to_paste(url, key)


def test_keys_list_shows_expiry_and_no_secret(bouchet: Bouchet) -> None:
    assert "keys add HOLDER" in bouchet("keys").out
    key = json.loads(bouchet("keys", "add", "bob", "--expires", "2h", "--json").out)["key"]
    listed = bouchet("keys", "list").out
    assert "bob" in listed and "in 1h59m" in listed and key not in listed
    assert json.loads(bouchet("keys", "list", "--json").out)["keys"][0]["name"] == "bob"


def test_keys_revoke_works_once(bouchet: Bouchet) -> None:
    bouchet("keys", "add", "bob")
    assert bouchet("keys", "revoke", "bob").status == 0
    assert bouchet.store.api_keys.all() == []
    assert one_line_error(bouchet("keys", "revoke", "bob"), 3)


@pytest.mark.parametrize(
    ("arguments", "status", "option"),
    [
        (("add",), 2, "HOLDER"),
        (("add", "x", "--tokens-per-minute", "many"), 2, "--tokens-per-minute"),
        (("lend", "x"), 2, "lend"),
        (("add", "Not A Name"), 2, "HOLDER: "),
        (("add", "x", "--expires", "soon"), 2, "--expires: "),
    ],
)
def test_keys_mistake_is_one_line_with_the_option(
    bouchet: Bouchet, arguments: tuple[str, ...], status: int, option: str
) -> None:
    done = bouchet("keys", *arguments)
    assert one_line_error(done, status) and option in done.err
    assert bouchet.store.api_keys.all() == []


def test_usage_is_a_table_by_key_or_model(bouchet: Bouchet) -> None:
    assert bouchet("usage").status == 0
    record = UsageRecord(
        at=time.time(), key="carla", model="org/Tiny", session="", deployment="d1", endpoint="/v1/messages", status=200,
        error="", input=4000, cached=12_000, output=500, first_ms=340, generating_ms=10_000,
    )  # fmt: skip
    bouchet.store.usage.add([record])
    table = wait_for(lambda: found if "carla" in (found := bouchet("usage").out) else None)
    assert table and all(cell in table for cell in ("KEY", "4.50k", "75%", "340ms", "50"))
    assert "org/Tiny" in bouchet("usage", "--by", "model", "--since", "7d").out
    lines = {line["name"]: line for line in json.loads(bouchet("usage", "--json").out)["lines"]}
    days = {line["name"]: line for line in json.loads(bouchet("usage", "people", "--json").out)["lines"]}
    assert lines["carla"]["output_tokens"] == 500 and lines["carla"] == days["carla"]


def test_usage_since_a_wrong_span_names_the_option(bouchet: Bouchet) -> None:
    done = bouchet("usage", "--since", "yesterday")
    assert one_line_error(done, 2) and "--since" in done.err


@pytest.fixture
def ledger(bouchet: Bouchet) -> Bouchet:
    """Return the command beside an API whose ledger has a request and a job."""
    bouchet.api.store.usage.add([request()])
    entry = job("bouchet-x7k2-1", ("serving", "2026-11-10T10:00", "2026-11-10T12:00"))
    bouchet.api.store.ledger.append([entry, accounting("bouchet-x7k2-1", 4 * 3600 - 30.0)])
    wait_for(lambda: "1 ended job" in bouchet("usage", "--gpu", "--month", "2026-11").err)
    wait_for(lambda: "alice" in bouchet("usage", "people", "--month", "2026-11").out)
    return bouchet


def test_usage_of_days_is_a_table_by_people_or_day(ledger: Bouchet) -> None:
    people = ledger("usage", "people", "--month", "2026-11", "--zone", "America/New_York")
    assert people.status == 0 and "2026-11-01 to 2026-11-30, days of America/New_York" in people.err
    assert all(cell in people.out for cell in ("KEY", "alice", "90%"))
    days = ledger("usage", "days", "--from", "2026-11-10", "--to", "2026-11-10", "--zone", "UTC").out
    assert "DAY" in days and "2026-11-10" in days
    assert json.loads(ledger("usage", "models", "--month", "2026-11", "--json").out)["by"] == "model"
    assert "no usage from 2026-10-01" in ledger("usage", "agents", "--month", "2026-10").out


def test_usage_of_gpus_has_charge_and_difference_to_sacct(ledger: Bouchet) -> None:
    done = ledger("usage", "types", "--gpu", "--month", "2026-11")
    assert all(
        cell in done.out for cell in ("GPU TYPE", "h200", "4.0", "1,200 SU", "in all 4.0 GPU hours, 0% of it idle")
    )
    assert "1 ended job, 30 GPU s more here than in sacct" in done.err


def test_usage_csv_is_for_programs(ledger: Bouchet) -> None:
    rows = list(csv.DictReader(io.StringIO(ledger("usage", "people", "--month", "2026-11", "--csv").out)))
    assert next(int(row["requests"]) for row in rows if row["name"] == "alice") >= 1
    hours = list(csv.DictReader(io.StringIO(ledger("usage", "--gpu", "--csv", "--month", "2026-11").out)))
    assert (float(hours[0]["gpu_hours"]), float(hours[0]["charge"])) == (4.0, 1200.0)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("people", "--since", "7d"), 2, "--since"),
        (("accounts",), 2, "without --gpu"),
        (("people", "--gpu"), 2, "with --gpu"),
        (("everything",), 2, "VIEW"),
        (("people", "--month", "2026-13"), 1, "`month` is not a date such as 2026-11"),
        (("days", "--zone", "Mars"), 1, "no time zone 'Mars'"),
        (("days", "--from", "2026-11-30", "--to", "2026-11-01"), 1, "is after `to`"),
    ],
)
def test_usage_mistake_is_one_line(bouchet: Bouchet, arguments: tuple[str, ...], status: int, words: str) -> None:
    done = bouchet("usage", *arguments)
    assert one_line_error(done, status) and words in done.err
