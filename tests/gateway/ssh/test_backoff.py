"""Back-off: quick for networks, slow for logins, none without a person for prompts."""

from __future__ import annotations

import pytest
from bouchet_core.errors import BouchetError, ConfigurationError, TunnelDownError
from bouchet_core.tunnel import TunnelState
from bouchet_gateway.errors import HostKeyRefusedError, LoginRefusedError, PromptUnansweredError
from bouchet_gateway.ssh.failures import FailureCause, cause_of, network_delay_s, next_retry


@pytest.mark.parametrize("cause", FailureCause)
@pytest.mark.parametrize("failures", [1, 2, 3, 100, 10_000])
def test_next_retry_covers_every_cause(cause: FailureCause, failures: int) -> None:
    retry = next_retry(cause, failures, 0.5)
    assert retry.state not in (TunnelState.UP, TunnelState.CONNECTING)
    assert retry.delay_s is None or retry.delay_s > 0


def test_network_delay_is_two_seconds_for_minutes_then_fifteen() -> None:
    delays = [network_delay_s(failures, 0.0) for failures in range(1, 100)]
    assert delays[:5] == [0.25, 0.5, 1.0, 2.0, 2.0]
    assert max(delays[:59]) == 2.0
    assert max(delays) == 15.0
    assert network_delay_s(100_000, 0.999) > 11


def test_network_delay_jitter_only_shortens() -> None:
    assert 0.75 * 2.0 <= network_delay_s(9, 0.9999) < network_delay_s(9, 0.0) == 2.0


def test_next_retry_login_is_tried_three_times() -> None:
    assert [next_retry(FailureCause.LOGIN, n, 0.5).delay_s for n in (1, 2, 3, 4)] == [30.0, 60.0, None, None]


def test_next_retry_unanswered_prompt_waits_for_connect() -> None:
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
def test_cause_of_error(error: BouchetError, cause: FailureCause) -> None:
    assert cause_of(error) is cause
