"""When to try again: quickly for networks, slowly for logins, never unasked for people."""

from __future__ import annotations

import pytest
from bouchet_core.errors import ConfigurationError, TunnelDownError
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.errors import HostKeyRefusedError, LoginRefusedError, PromptUnansweredError
from bouchet_gateway.ssh.backoff import FailureCause, cause_of, network_delay_s, next_retry


def test_every_cause_has_an_answer() -> None:
    for cause in FailureCause:
        for streak in (1, 2, 3, 100, 10_000):
            step = next_retry(cause, streak, 0.5)
            assert step.state not in (TunnelState.UP, TunnelState.CONNECTING)
            assert step.delay_s is None or step.delay_s > 0


def test_networks_are_tried_within_two_seconds_for_minutes_then_calmly() -> None:
    delays = [network_delay_s(streak, 0.0) for streak in range(1, 100)]
    assert delays[:5] == [0.25, 0.5, 1.0, 2.0, 2.0]
    assert max(delays[:59]) == 2.0
    assert max(delays) == 15.0
    assert network_delay_s(100_000, 0.999) > 11


def test_jitter_only_shortens() -> None:
    assert 0.75 * 2.0 <= network_delay_s(9, 0.9999) < network_delay_s(9, 0.0) == 2.0


def test_logins_are_tried_three_times_and_slowly() -> None:
    assert [next_retry(FailureCause.LOGIN, n, 0.5).delay_s for n in (1, 2, 3, 4)] == [30.0, 60.0, None, None]


def test_nobody_is_asked_twice_unasked() -> None:
    assert next_retry(FailureCause.UNANSWERED, 1, 0.5).delay_s is None


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (TunnelDownError("x"), FailureCause.NETWORK),
        (LoginRefusedError("x"), FailureCause.LOGIN),
        (HostKeyRefusedError("x"), FailureCause.HOST_KEY),
        (PromptUnansweredError("x"), FailureCause.UNANSWERED),
        (ConfigurationError("x", "y"), FailureCause.CONFIGURATION),
    ],
)
def test_errors_have_causes(error: TunnelDownError, cause: FailureCause) -> None:
    assert cause_of(error) is cause
