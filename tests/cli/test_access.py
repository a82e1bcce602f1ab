"""Keys for others, and the table of what was used."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from bouchet_cli.view.api_keys import bar, seconds, short, usage_lines
from bouchet_core.keys import sha256_of
from bouchet_core.usage import UsageRecord

from tests.cli.conftest import Bouchet

LINE: dict[str, Any] = {
    "name": "alice",
    "requests": 1234,
    "input_tokens": 100,
    "cached_tokens": 900,
    "output_tokens": 50,
    "first_token_ms": 340,
    "tokens_per_second": 41.5,
    "errors": 3,
    "errors_by_kind": {"timeout": 1, "rate_limit_exceeded": 2},
}


def test_a_key_is_the_only_thing_on_stdout(bouchet: Bouchet) -> None:
    words = "--requests-per-minute 60 --tokens-per-minute 200000 --expires 30d"
    done = bouchet("keys", "add", "alice", *words.split())
    assert done.status == 0, done.err
    (kept,) = bouchet.store.api_keys.all()
    assert kept.sha256 == sha256_of(done.out.strip())
    assert (kept.name, kept.requests_per_minute, kept.tokens_per_minute) == ("alice", 60, 200_000)
    assert "cannot be shown again" in done.err and done.out.strip() not in done.err


def test_keys_are_listed_and_revoked(bouchet: Bouchet) -> None:
    assert "keys add HOLDER" in bouchet("keys").out
    key = json.loads(bouchet("keys", "add", "bob", "--expires", "2h", "--json").out)["key"]
    listed = bouchet("keys", "list").out
    assert "bob" in listed and "in 1h59m" in listed and key not in listed
    assert json.loads(bouchet("keys", "list", "--json").out)["keys"][0]["name"] == "bob"
    assert "opens nothing any more" in bouchet("keys", "revoke", "bob").out
    again = bouchet("keys", "revoke", "bob")
    assert again.status == 1 and "no key 'bob'" in again.err


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("add",), 2),
        (("add", "x", "--tokens-per-minute", "many"), 2),
        (("lend", "x"), 2),
        (("add", "Not A Name"), 1),
        (("add", "x", "--expires", "soon"), 1),
    ],
)
def test_mistakes_are_one_line(bouchet: Bouchet, words: tuple[str, ...], status: int) -> None:
    done = bouchet("keys", *words)
    assert done.status == status, done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert bouchet.store.api_keys.all() == []


def test_usage_is_a_table(bouchet: Bouchet) -> None:
    assert "nothing was used" in bouchet("usage").out
    one = {"at": time.time(), "key": "alice", "model": "org/Tiny", "session": "", "deployment": "d1"}
    more = {"endpoint": "/v1/messages", "status": 200, "error": "", "input": 4000, "cached": 12_000, "output": 500}
    bouchet.store.usage.add([UsageRecord(**one, **more, first_ms=340, generating_ms=10_000)])  # type: ignore[arg-type]
    table = bouchet("usage").out
    assert all(word in table for word in ("KEY", "alice", "4.50k", "75%", "340ms", "50"))
    assert "org/Tiny" in bouchet("usage", "--by", "model", "--since", "7d").out
    assert json.loads(bouchet("usage", "--json").out)["lines"][0]["output_tokens"] == 500
    wrong = bouchet("usage", "--since", "yesterday")
    assert wrong.status == 1 and "since" in wrong.err


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_table_fits_and_tells_what_went_wrong(width: int) -> None:
    lines = [line.plain for line in usage_lines("key", [LINE, {**LINE, "name": "b" * 50}], width)]
    assert all(len(line) <= width for line in lines)
    assert "2 rate_limit_exceeded" in lines[2]


def test_bars_and_numbers() -> None:
    assert [bar(amount, 8, 2) for amount in (8, 4, 0)] == ["██", "█ ", "  "]
    assert bar(1, 10**9, 4).strip()
    assert [short(n) for n in (0, 999, 1000, 12_345, 999_999, 4_560_000)] == [
        "0",
        "999",
        "1.00k",
        "12.3k",
        "1000k",
        "4.56M",
    ]
    assert [seconds(n) for n in (999, 2345, 41_000)] == ["999ms", "2.3s", "41s"]
