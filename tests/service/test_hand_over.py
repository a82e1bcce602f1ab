"""Worker and proxy over one Redis: a job hands over to its successor while clients stream, and a parked model wakes."""

from __future__ import annotations

import time

import httpx
import pytest
from bouchet_core.deployments import Phase
from bouchet_core.gateway_client import NO_TLS
from bouchet_core.policy import Policy
from bouchet_proxy import dispatch
from bouchet_proxy.backends import direct
from bouchet_proxy.http.pool import PROOF_TIMEOUT_S
from bouchet_proxy.settings import HOLD_STARTING_S

from tests.proxy.environment import KEY
from tests.service.running import ALIAS, CLIENTS, WAIT_S, Both, Clients
from tests.waiting import wait_for


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_hand_overs_under_load_fail_no_request_and_cut_no_stream(both: Both) -> None:
    both.create(Policy(keep="forever"))
    both.wait_for_job(1, Phase.READY)
    clients = Clients(both.proxy.url)
    wait_for(lambda: httpx.get(f"{both.proxy.url}/v1/models/{ALIAS}", headers={"x-api-key": KEY}).is_success, WAIT_S)
    with clients.running():
        for number in (1, 2, 3):
            both.near_its_end(number)
            both.wait_for_job(number + 1, Phase.READY)
            both.wait_for_job(number, Phase.ENDED)
    assert clients.problems == [] and clients.answered >= CLIENTS
    assert both.cluster.aborted == 0, "a job ended while it was answering"
    assert both.cluster.generated() == clients.answered, "no request was sent twice"
    assert len(both.slurm.jobs) == 4, "one successor for each job"
    ended = [job for job in both.record.jobs if not job.is_live]
    assert [job.reason.startswith("retired: nothing is open on it") for job in ended] == [True] * 3


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_parked_model_wakes_for_a_held_stream(both: Both) -> None:
    both.create(Policy(on_demand=True))
    wait_for(lambda: both.record.phase is Phase.PARKED, WAIT_S)
    assert both.slurm.jobs == {}
    body = {"model": ALIAS, "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "SAY[hello]"}]}
    headers = {"x-api-key": KEY}
    wait_for(lambda: ALIAS in httpx.get(f"{both.proxy.url}/v1/models", headers=headers).text, WAIT_S)
    began = time.monotonic()
    answer = httpx.post(f"{both.proxy.url}/v1/messages", json=body, headers=headers, timeout=WAIT_S, verify=NO_TLS)
    assert "hello" in answer.text and '"error"' not in answer.text, answer.text
    print(f"woken and answered in {time.monotonic() - began:.1f} s")
    assert [one.action for one in both.record.service.decisions] == ["park", "wake"]


# a start that no client may notice; Claude Code drops a stream whose only events are pings after that time
LONG_START_S, PATIENCE_S = 200.0, 300.0
# what is between a client and the proxy closes what was silent for a minute
SILENCE_S = 60.0
SCALE = 1 / 10


def test_limits_of_a_held_request_are_longer_than_a_start() -> None:
    assert LONG_START_S + 30 <= HOLD_STARTING_S <= PATIENCE_S - 30
    assert max(dispatch.PING_S, direct.PING_S) * 2 <= SILENCE_S
    assert PROOF_TIMEOUT_S < LONG_START_S, "a connection to a model that loads is given up, the request is not"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_client_of_a_model_that_loads_for_long_sees_pings_and_no_error(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start of 200 s, in a tenth of its time: pings come as much more often, and silence is as much shorter."""
    monkeypatch.setattr(dispatch, "PING_S", dispatch.PING_S * SCALE)
    both.cluster.loading_s = LONG_START_S * SCALE
    both.create(Policy(on_demand=True))
    wait_for(lambda: both.record.phase is Phase.PARKED, WAIT_S)
    headers = {"x-api-key": KEY}
    wait_for(lambda: ALIAS in httpx.get(f"{both.proxy.url}/v1/models", headers=headers).text, WAIT_S)
    body = {"model": ALIAS, "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "SAY[hello]"}]}
    began = time.monotonic()
    answer = httpx.post(f"{both.proxy.url}/v1/messages", json=body, headers=headers, timeout=SILENCE_S, verify=NO_TLS)
    assert time.monotonic() - began >= LONG_START_S * SCALE, "it waited for the start"
    assert "hello" in answer.text and '"error"' not in answer.text, answer.text
    # half of them: a busy machine may be late
    assert answer.text.count("event: ping") >= LONG_START_S / 10 / 2
    assert len(both.slurm.jobs) == 1
