"""Every command with `--json` prints one JSON document on stdout; tables fit the width."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from bouchet_cli.arguments import WITHOUT_JSON
from bouchet_cli.commands import COMMANDS

from tests.cli.harness import LOG, QWEN, Bouchet, FakeGateway, change_job

# command -> its arguments, and keys of the document
DOCUMENTS: Mapping[str, tuple[tuple[str, ...], set[str]]] = {
    "launch": ((QWEN, "--name", "other", "--no-wait"), {"id", "model", "phase", "names"}),
    "status": ((), {"deployments", "ended", "tunnel", "tunnel_error", "cluster_outage", "orphans"}),
    "models": ((), {"default", "models"}),
    "download": ((), {"downloads"}),
    "image": (("build", "cpu-0.32.0", "--no-wait"), {"id", "pin", "state"}),
    "cancel": (("mine",), {"deployments"}),
    "keep": (("mine", "off"), {"id"}),
    "tasks": ((), {"tasks"}),
    "notify": ((), {"configured", "running", "problem", "status", "messages"}),
    "logs": (("mine",), {"line"}),
    "tunnel": ((), {"state", "host", "since"}),
    "env": ((), {"ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN"}),
    "keys": ((), {"keys"}),
    "usage": ((), {"by", "lines"}),
    "chat": ((), {"model", "answer", "thoughts"}),
    "doctor": (("--local",), {"version", "checks"}),
}
# commands that need a worker, which does not run here
NEED_WORKER = {"attach", "orphans"}
# commands that need another machine
NEED_CLUSTER = {"setup", "site"}
# test_top.py has these: they follow the API's streams
STREAMING = {"open", "top"}


@pytest.fixture
def ready(bouchet: Bouchet, gateway: FakeGateway) -> Bouchet:
    """Return the command with a ready deployment that has a log."""
    bouchet.launch_ready(QWEN, "--name", "mine")
    gateway.files[LOG] = b"one line\n"
    return bouchet


def test_every_command_is_in_the_table() -> None:
    assert set(DOCUMENTS) == set(COMMANDS) - set(WITHOUT_JSON) - NEED_WORKER - NEED_CLUSTER - STREAMING


@pytest.mark.parametrize("command", DOCUMENTS)
def test_command_prints_json(ready: Bouchet, command: str) -> None:
    arguments, keys = DOCUMENTS[command]
    done = ready(command, *arguments, "--json", stdin="Hi")
    assert done.status in (0, 1 if command == "doctor" else 0), done.err
    assert keys <= set(json.loads(done.out))


@pytest.mark.parametrize("arguments", [("models",), ("status",), ("status", "mine"), ("usage",), ("notify",)])
@pytest.mark.parametrize("width", [40, 200])
def test_table_fits_its_width(ready: Bouchet, arguments: tuple[str, ...], width: int) -> None:
    done = ready(*arguments, COLUMNS=str(width))
    assert done.status == 0, done.err
    assert max(map(len, done.out.splitlines())) <= width
    assert "\x1b" not in done.out


def test_json_in_ascii_is_the_same_document(ready: Bouchet) -> None:
    (record,) = ready.store.live()
    change_job(ready.store, record.id, torch_version="ü")
    done = ready.process("status", record.id, "--json", PYTHONIOENCODING="ascii")
    assert json.loads(done.out)["jobs"][-1]["torch_version"] == "ü"


def test_output_in_ascii_replaces_other_characters(ready: Bouchet) -> None:
    (record,) = ready.store.live()
    change_job(ready.store, record.id, times={"queue": 30.0, "boot": 60.0})
    done = ready.process("status", record.id, PYTHONIOENCODING="ascii")
    assert done.status == 0 and "?" in done.out


@pytest.mark.parametrize("arguments", [("status",), ("status", "--json"), ("env", "--for", "openai")])
def test_output_to_a_full_disk_is_one_error_line(ready: Bouchet, arguments: tuple[str, ...]) -> None:
    argv, environment = ready.program(*arguments), dict(ready.environment)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(argv, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "error: the output: No space left on device")
    assert "Traceback" not in done.stderr


def test_json_escapes_all_control_characters(ready: Bouchet) -> None:
    (record,) = ready.store.live()
    change_job(ready.store, record.id, torch_version="ü\x9b2J\x7f\x1b")
    done = ready("status", record.id, "--json")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.out) and "ü" in done.out
    assert json.loads(done.out)["jobs"][-1]["torch_version"] == "ü\x9b2J\x7f\x1b"
