"""The conformance table against this proxy; `make conformance` has it beside other servers, and more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conformance.described import fuzz
from tests.conformance.run import CASES, Target, Verdict, run_cases
from tests.conformance.tool_suite import FORMATS, run_suite
from tests.stack.conftest import SCRIPTED, SMALL
from tests.stack.harness import Stack


@pytest.fixture(scope="module")
def verdicts(stack: Stack, scripted: dict[str, Any]) -> dict[str, Verdict]:
    """Run all cases side by side."""
    models = {"scripted": SCRIPTED, "small": SMALL}
    found = run_cases(Target("ours", stack.proxy_url, stack.key, models, is_ours=True))
    return {verdict.case: verdict for verdict in found}


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_case_is_right(verdicts: dict[str, Verdict], name: str) -> None:
    assert verdicts[name].problem == ""


def test_client_of_another_suite_runs_tool_loops(stack: Stack, scripted: dict[str, Any], tmp_path: Path) -> None:
    for dialect in FORMATS:
        own = run_suite(stack.proxy_url, stack.key, SCRIPTED, dialect, tmp_path / dialect)
        assert own.problem(must_pass=True) == ""


def test_proxy_is_as_it_is_described(stack: Stack, scripted: dict[str, Any]) -> None:
    is_described, printed = fuzz(stack.proxy_url, stack.key, seconds=20)
    assert is_described, printed
