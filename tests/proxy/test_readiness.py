"""Whether a request waits for a model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Phase
from bouchet_proxy.dispatch import is_worth_waiting
from bouchet_proxy.routing.table import NoModelRunning, NotReady, TableNotLoaded, UnknownModel
from bouchet_proxy.settings import HOLD_STARTING_S

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LIMIT_S = 240
# Claude Code's own limit for a stream without an event
CLAUDE_CODE_LIMIT_S = 300


def not_ready(phase: Phase, start_in_s: float | None = None) -> NotReady:
    start = None if start_in_s is None else NOW + timedelta(seconds=start_in_s)
    return NotReady("tiny", phase, "reason", "", start)


@pytest.mark.parametrize("phase", Phase)
def test_is_worth_waiting_for_every_phase_but_the_last(phase: Phase) -> None:
    ends = phase in (Phase.DRAINING, Phase.ENDED)
    assert is_worth_waiting(not_ready(phase), NOW, LIMIT_S) is not ends
    assert not is_worth_waiting(not_ready(phase), NOW, 0)


@pytest.mark.parametrize(
    ("start_in_s", "expected"), [(None, True), (-60, True), (239, True), (241, False), (86400, False)]
)
def test_is_worth_waiting_in_the_queue_if_slurm_starts_it_in_time(start_in_s: float | None, expected: bool) -> None:
    assert is_worth_waiting(not_ready(Phase.QUEUED, start_in_s), NOW, LIMIT_S) is expected
    assert is_worth_waiting(not_ready(Phase.STARTING, start_in_s), NOW, LIMIT_S)


def test_is_worth_waiting_without_deployment_is_false() -> None:
    assert not is_worth_waiting(NoModelRunning(()), NOW, LIMIT_S)
    assert not is_worth_waiting(UnknownModel("x", (), (), False), NOW, LIMIT_S)


def test_is_worth_waiting_for_the_routing_table_is_true() -> None:
    assert is_worth_waiting(TableNotLoaded(), NOW, LIMIT_S)


def test_hold_starting_s_default_is_below_claude_codes_limit() -> None:
    assert HOLD_STARTING_S < CLAUDE_CODE_LIMIT_S
