"""From the cluster to a phone: a worker's loop with real jobs, the notifier as a process, a real receiver.

What happens to the deployment arrives as one message each, although notifier and worker are killed in between.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from bouchet_core.deployments import Phase
from bouchet_core.policy import Policy
from bouchet_core.tunnel import TunnelEvent, TunnelState

from tests.conftest import RedisServer
from tests.notifier.conftest import receiver, start_notifier
from tests.notifier.receiver import Receiver
from tests.service.running import WAIT_S, Both
from tests.waiting import wait_for

__all__ = ["receiver", "start_notifier"]

pytestmark = pytest.mark.slow


def test_life_of_a_deployment_is_one_message_each_over_kills(
    both: Both,
    redis_server: RedisServer,
    receiver: Receiver,
    start_notifier: Callable[..., subprocess.Popen[bytes]],
) -> None:
    own = redis_server.store()
    notifier = start_notifier(receiver.url)
    wait_for(lambda: own.beats("notifier"), WAIT_S)
    both.create(Policy())
    both.wait_for_job(1, Phase.READY)
    wait_for(lambda: "hop is ready" in receiver.titles and not own.notices.outbox(), WAIT_S)
    notifier.kill()
    notifier.wait()
    both.restart_worker(0.1)
    both.near_its_end(1)
    wait_for(lambda: own.notices.ends()["notices"] > own.notices.position().read["notices"], WAIT_S)
    notifier = start_notifier(receiver.url)
    wait_for(lambda: any(title.startswith("hop ends in") for title in receiver.titles), WAIT_S)
    both.cluster.kill("bouchet-aa-1", "NODE_FAIL")
    wait_for(lambda: any(title.startswith("hop ended") for title in receiver.titles), WAIT_S)
    both.restart_worker(0.1)
    gateway = redis_server.store("gateway")
    waits = TunnelEvent(state=TunnelState.NEEDS_HUMAN, host="login", waits_for="prompt", at=datetime.now(UTC))
    gateway.tunnel.append(waits)
    gateway.close()
    wait_for(lambda: "login waits for your second factor" in receiver.titles, WAIT_S)
    kinds = [title.split(" in ")[0].split(":")[0] for title in receiver.titles]
    assert kinds == ["hop is ready", "hop ends", "hop ended", "login waits for your second factor"]
    own.close()


def test_failed_start_is_sent_with_its_reason(
    both: Both,
    redis_server: RedisServer,
    receiver: Receiver,
    start_notifier: Callable[..., subprocess.Popen[bytes]],
) -> None:
    own = redis_server.store()
    both.cluster.fails_from = 1
    start_notifier(receiver.url, NOTIFY_EVENTS="failed_start")
    wait_for(lambda: own.beats("notifier"), WAIT_S)
    both.create(Policy())
    wait_for(lambda: receiver.titles, WAIT_S)
    (message,) = receiver.messages
    assert (message["title"], message["type"]) == ("hop did not start", "failure")
    assert "exit code 1:0" in message["message"]
    own.close()
