"""The real Codex: a tool loop, a resumed session and a compacted one against the stack, and what it asks again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.clients import drive
from tests.clients.failing_server import ANSWER, serve_fault
from tests.stack.conftest import SCRIPTED
from tests.stack.harness import Stack

# docs/clients.md has this table
RETRIED = [
    "status:429:retry-after=1",
    *(f"status:{status}" for status in (404, 500, 502, 503, 504, 529)),
    *(f"{place}:{end}" for place in ("first", "begun", "text") for end in ("failed:server_error", "error:x", "cut")),
    "begun:failed:model_unreachable",
    "text:failed:stream_interrupted",
    "text:close",
]
SHOWN = ["status:400", "status:429", *(f"begun:failed:{code}" for code in ("invalid_prompt", "server_is_overloaded"))]


def test_codex_runs_tools_resumes_and_compacts(stack: Stack, scripted: dict[str, Any], tmp_path: Path) -> None:
    served = drive.Served(stack.proxy_url, stack.key, SCRIPTED, scripted["jobs"][-1]["window"])
    drive.drive_codex(drive.Home(tmp_path, served))


@pytest.mark.parametrize("fault", RETRIED)
def test_codex_asks_again(fault: str, tmp_path: Path) -> None:
    with serve_fault(fault) as server:
        home = drive.Home(tmp_path, drive.Served(server.url, "k", "m", 65536))
        assert ANSWER in drive.ask_codex(home, "hello")
        assert server.asked == 2


@pytest.mark.parametrize("fault", SHOWN)
def test_codex_shows_what_it_does_not_ask_again(fault: str, tmp_path: Path) -> None:
    with serve_fault(fault) as server:
        home = drive.Home(tmp_path, drive.Served(server.url, "k", "m", 65536))
        with pytest.raises(drive.ClientFailedError):
            drive.ask_codex(home, "hello")
        assert server.asked == 1
