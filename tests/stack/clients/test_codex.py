"""The real Codex against the stack: a tool loop, a resumed session, and a compacted one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.clients import drive
from tests.stack.conftest import SCRIPTED
from tests.stack.harness import Stack


def test_codex_runs_tools_resumes_and_compacts(stack: Stack, scripted: dict[str, Any], tmp_path: Path) -> None:
    served = drive.Served(stack.proxy_url, stack.key, SCRIPTED, scripted["jobs"][-1]["window"])
    drive.drive_codex(drive.Home(tmp_path, served))
