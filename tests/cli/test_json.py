"""Every command that prints something prints JSON too, on stdout alone; and no output needs a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from bouchet_cli.arguments import WITHOUT_JSON
from bouchet_cli.commands import COMMANDS

from tests.cli.conftest import LOG, Bouchet, advance
from tests.cli.test_commands import QWEN, TO_READY, launched
from tests.fakes.gateway_api import FakeGateway

# command -> what to type besides, and what the document must have
ASKED: Mapping[str, tuple[tuple[str, ...], set[str]]] = {
    "launch": ((QWEN, "--name", "other", "--no-wait"), {"id", "model", "phase", "names"}),
    "status": ((), {"deployments", "tunnel"}),
    "models": ((), {"default", "models"}),
    "download": ((), {"downloads"}),
    "image": (("build", "cpu-0.32.0", "--no-wait"), {"id", "pin", "state"}),
    "cancel": (("mine",), {"deployments"}),
    "tasks": ((), {"tasks"}),
    "logs": (("mine",), {"line"}),
    "tunnel": ((), {"state", "host", "since"}),
    "env": ((), {"ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN"}),
    "keys": ((), {"keys"}),
    "usage": ((), {"by", "lines"}),
    "chat": ((), {"model", "answer", "thoughts"}),
    "doctor": ((), {"version", "checks"}),
}
# what only a worker can answer; here is none
NEEDS_A_WORKER = {"orphans"}


@pytest.fixture
def ready(bouchet: Bouchet, gateway: FakeGateway) -> Bouchet:
    advance(bouchet.store, launched(bouchet, QWEN, "--name", "mine"), *TO_READY)
    gateway.files[LOG] = b"one line\n"
    return bouchet


def test_every_command_is_asked() -> None:
    assert set(ASKED) == set(COMMANDS) - set(WITHOUT_JSON) - NEEDS_A_WORKER


@pytest.mark.parametrize("command", ASKED)
def test_a_command_prints_json(ready: Bouchet, command: str) -> None:
    typed, wanted = ASKED[command]
    done = ready(command, *typed, "--json", stdin="Hi")
    assert done.status in (0, 1 if command == "doctor" else 0), done.err
    assert wanted <= set(json.loads(done.out))


@pytest.mark.parametrize(
    ("arguments", "width"),
    [
        (("models",), "40"),
        *((arguments, width) for arguments in (("status",), ("status", "mine"), ("usage",)) for width in ("40", "200")),
    ],
)
def test_a_table_fits_its_width(ready: Bouchet, arguments: tuple[str, ...], width: str) -> None:
    done = ready(*arguments, COLUMNS=width)
    assert done.status == 0, done.err
    assert max(map(len, done.out.splitlines())) <= int(width)
    assert "\x1b" not in done.out
