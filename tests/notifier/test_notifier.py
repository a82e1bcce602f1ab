"""The notifier as a process: a real Redis with its own user, the real apprise, a real receiver; kills and outages."""

from __future__ import annotations

import json
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from bouchet_core.notices import Notice, NoticeKind
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelEvent, TunnelState
from bouchet_notifier.notifier import Notifier

from tests.conftest import RedisServer
from tests.notifier.conftest import StartNotifier
from tests.notifier.receiver import PASSWORD, SECRET_PATH, USER, Receiver, running_receiver
from tests.waiting import wait_for

WAIT_S = 90.0


def notice(number: int, kind: NoticeKind = NoticeKind.READY, *, asked: bool = False, age_s: float = 0) -> Notice:
    at = datetime.now(UTC) - timedelta(seconds=age_s)
    return Notice(key=f"k{number}", kind=kind, title=f"title {number}", asked=asked, at=at)


def append(store: Store, *notices: Notice) -> None:
    store.notices.append(notices, datetime.now(UTC))


def is_settled(store: Store, count: int) -> bool:
    found = store.notices.messages(50)
    return len(found) >= count and all(one.is_settled for one in found)


@pytest.mark.slow
def test_notices_arrive_once_each_over_stops_and_kills(
    start_notifier: StartNotifier, receiver: Receiver, redis_server: RedisServer, worker_store: Store
) -> None:
    own = redis_server.store()
    process = start_notifier(receiver.url)
    wait_for(lambda: own.beats("notifier"), WAIT_S)
    expected = []
    for number in range(6):
        append(worker_store, notice(number), notice(number))
        expected.append(f"title {number}")
        if number % 2:
            process.send_signal(signal.SIGTERM)
            # one that is stopped while it starts has done nothing yet
            assert process.wait(60) in (0, -signal.SIGTERM)
        elif number:
            wait_for(lambda: is_settled(own, len(expected)), WAIT_S)
            process.kill()
            process.wait()
        if number:
            process = start_notifier(receiver.url)
    wait_for(lambda: is_settled(own, 6), WAIT_S)
    assert receiver.titles == expected
    own.close()


@pytest.mark.slow
def test_messages_wait_for_a_target_that_is_down_also_over_a_restart(
    start_notifier: StartNotifier, receiver: Receiver, redis_server: RedisServer, worker_store: Store
) -> None:
    receiver.mode = "500"
    own = redis_server.store()
    with running_receiver() as other:
        process = start_notifier(receiver.url, other.url)
        wait_for(lambda: own.beats("notifier"), WAIT_S)
        append(worker_store, notice(1))
        wait_for(lambda: other.titles == ["title 1"] and receiver.paths, WAIT_S)
        wait_for(lambda: (status := own.notices.status()) and "HTTP 500" in status.targets[0].problem, WAIT_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        receiver.mode = "ok"
        start_notifier(receiver.url, other.url)
        wait_for(lambda: is_settled(own, 1), WAIT_S)
        assert receiver.titles == other.titles == ["title 1"]
    (report,) = own.notices.messages(5)
    assert [one.state for one in report.deliveries] == ["sent", "sent"]
    own.close()


@pytest.mark.slow
def test_no_secret_is_in_log_environment_argv_or_redis(
    start_notifier: StartNotifier, receiver: Receiver, redis_server: RedisServer, worker_store: Store, tmp_path: Path
) -> None:
    receiver.mode = "404"
    own = redis_server.store()
    process = start_notifier(receiver.url, "nfty://topic-that-is-secret", LOG_LEVEL="DEBUG")
    wait_for(lambda: own.beats("notifier"), WAIT_S)
    append(worker_store, notice(1))
    wait_for(lambda: is_settled(own, 1), WAIT_S)
    folder = Path(f"/proc/{process.pid}")
    seen = [(folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()]
    seen.append((tmp_path / "notifier.log").read_bytes())
    with redis.Redis(port=redis_server.port, password=redis_server.password) as client:
        seen.extend(client.dump(name) or b"" for name in client.keys("bouchet:notifier:*"))
        status = client.get("bouchet:notifier:status")
    assert b"did you mean ntfy" in (status or b"") and b"HTTP 404" in seen[2]
    for secret in (SECRET_PATH, PASSWORD, USER, "topic-that-is-secret", redis_server.password + "@"):
        assert not any(secret.encode() in text for text in seen), secret
    own.close()


@pytest.mark.slow
def test_idle_notifier_uses_little_cpu_and_memory(
    start_notifier: StartNotifier, receiver: Receiver, redis_server: RedisServer
) -> None:
    own = redis_server.store()
    process = start_notifier(receiver.url)
    wait_for(lambda: (status := own.notices.status()) and "JSON" in status.targets[0].shown, WAIT_S)

    def cpu_s() -> float:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    before = cpu_s()
    time.sleep(15)
    used = cpu_s() - before
    status = Path(f"/proc/{process.pid}/status").read_text()
    memory_mib = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024
    assert used / 15 < 0.02 and memory_mib < 60, (used, memory_mib)
    own.close()


class InProcess:
    """A notifier in this process, whose targets only note what they are given."""

    def __init__(self, store: Store, **more: object) -> None:
        from bouchet_notifier.targets import Target

        self.notifier = Notifier(store, [Target(1, "json://127.0.0.1:1/")], **more)  # type: ignore[arg-type]
        self.notifier._begin()

    def step(self) -> list[str]:
        """Read once; return the titles of all messages that are in the outbox."""
        self.notifier._step()
        return [one.message.title for one in self.notifier._store.notices.outbox()]


@pytest.fixture
def store(redis_server: RedisServer) -> Store:
    return redis_server.store("notifier")


def test_first_start_sends_nothing_of_long_ago(store: Store, worker_store: Store, redis_server: RedisServer) -> None:
    with redis.Redis(port=redis_server.port, password=redis_server.password) as client:
        old = notice(1, age_s=3600).model_dump_json()
        client.xadd("bouchet:notices", {"body": old}, id=f"{int((time.time() - 3600) * 1000)}-0")
    append(worker_store, notice(2))
    assert InProcess(store, events=tuple(NoticeKind)).step() == ["title 2"]


def test_notices_of_a_long_absence_are_one_summary(store: Store, worker_store: Store) -> None:
    events = tuple(NoticeKind)
    append(worker_store, notice(1))
    assert InProcess(store, events=events).step() == ["title 1"]
    append(worker_store, notice(2, age_s=3000), notice(3, NoticeKind.ENDED, age_s=2000), notice(4))
    found = InProcess(store, events=events).step()
    assert sorted(found) == ["2 messages were missed", "title 1", "title 4"]


def test_general_notices_are_off_and_one_launch_asks_for_its_own(store: Store, worker_store: Store) -> None:
    append(worker_store, notice(1), notice(2, asked=True))
    assert InProcess(store, events=()).step() == ["title 2"]


def test_person_is_asked_once_after_the_grace_and_not_again_by_a_new_process(
    store: Store, redis_server: RedisServer
) -> None:
    gateway = redis_server.store("gateway")
    events = (NoticeKind.NEEDS_PERSON,)
    first = InProcess(store, events=events, grace_s=0.5)
    waits = TunnelEvent(state=TunnelState.NEEDS_HUMAN, host="login", waits_for="prompt", at=datetime.now(UTC))
    gateway.tunnel.append(waits)
    assert first.step() == []
    assert first.step() == ["login waits for your second factor"]
    gateway.tunnel.append(waits.model_copy(update={"at": datetime.now(UTC)}))
    assert len(InProcess(store, events=events, grace_s=0.0).step()) == 1
    gateway.close()


def test_person_who_answers_within_the_grace_is_not_asked(store: Store, redis_server: RedisServer) -> None:
    gateway = redis_server.store("gateway")
    now = datetime.now(UTC)
    notifier = InProcess(store, events=(NoticeKind.NEEDS_PERSON,), grace_s=0.3)
    gateway.tunnel.append(TunnelEvent(state=TunnelState.NEEDS_HUMAN, host="login", waits_for="prompt", at=now))
    assert notifier.step() == []
    gateway.tunnel.append(TunnelEvent(state=TunnelState.UP, host="login", at=now))
    time.sleep(0.4)
    assert notifier.step() == []
    gateway.close()


def test_test_message_goes_out_whatever_is_switched_off(store: Store, redis_server: RedisServer) -> None:
    notifier = InProcess(store, events=())
    api = redis_server.store("api")
    identity = api.notices.request_test()
    assert notifier.step() == ["bouchet-llm: a test"]
    found = api.notices.message(identity)
    assert found is not None and found.message.kind is NoticeKind.TEST
    api.close()


def test_unreadable_entries_are_skipped(store: Store, worker_store: Store, redis_server: RedisServer) -> None:
    with redis.Redis(port=redis_server.port, password=redis_server.password) as client:
        for body in ("{", json.dumps({"key": "k", "kind": "of a newer version", "title": "t"}), ""):
            client.xadd("bouchet:notices", {"body": body})
        client.xadd("bouchet:notices", {"other": "x"})
        client.hset("bouchet:notifier:position", "state", "not JSON")
    append(worker_store, notice(2))
    assert InProcess(store, events=tuple(NoticeKind)).step() == ["title 2"]
