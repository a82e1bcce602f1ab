from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Phase
from bouchet_proxy.dispatch import refusal, worth_waiting
from bouchet_proxy.routing.table import UNKNOWN, NoSuchModel, NothingRuns, Unknown, Waiting
from bouchet_proxy.settings import HOLD_STARTING_S

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
# Claude Code's own limit for a stream without an event
CLAUDE_CODE_GIVES_UP_S = 300


def waiting(phase: Phase, in_s: float | None = None) -> Waiting:
    return Waiting("tiny", phase, "because", "", None if in_s is None else NOW + timedelta(seconds=in_s))


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_is_waited_for_or_not(phase: Phase) -> None:
    ends = phase in (Phase.DRAINING, Phase.ENDED)
    assert worth_waiting(waiting(phase), NOW, 240) is not ends
    assert not worth_waiting(waiting(phase), NOW, 0)


@pytest.mark.parametrize(("in_s", "worth"), [(None, True), (-60, True), (239, True), (241, False), (86400, False)])
def test_a_queue_is_waited_for_only_if_it_may_end_in_time(in_s: float | None, worth: bool) -> None:
    assert worth_waiting(waiting(Phase.QUEUED, in_s), NOW, 240) is worth
    assert worth_waiting(waiting(Phase.STARTING, in_s), NOW, 240)


def test_nobody_waits_for_what_was_never_launched() -> None:
    assert not worth_waiting(NothingRuns(()), NOW, 240)
    assert not worth_waiting(NoSuchModel("x", (), (), False), NOW, 240)


def test_before_the_store_was_read_nobody_is_told_that_nothing_runs() -> None:
    for name in ("default", "claude-x", "org/one"):
        assert isinstance(UNKNOWN.find(name), Unknown)
    assert worth_waiting(Unknown(), NOW, 240)
    failure = refusal(Unknown(), NOW)
    assert failure.status == 529 and failure.retry_after_s and "Redis" in failure.message


def test_hold_starting_s_default_is_below_claude_codes_limit() -> None:
    assert HOLD_STARTING_S < CLAUDE_CODE_GIVES_UP_S
