"""Server-sent events over a real port: changes and log lines, resumed after a broken connection."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from itertools import islice

import httpx
import pytest
from bouchet_api import notifier
from bouchet_api.dependencies import AppState
from bouchet_api.routes import streams
from bouchet_api.routes.streams import LogLine, split_lines
from bouchet_core.deployments import Deployment, Ending, Job, LaunchRequest, Phase
from bouchet_core.gateway_client import NO_TLS
from bouchet_core.tunnel import TunnelEvent, TunnelState

from tests.fakes.running_api import ADMIN_KEY, RunningApi, read_events

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LOG = "/data/bouchet/logs/7.log"


@pytest.fixture(autouse=True)
def short_log_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LOG_INTERVAL_S", 0.05)


def make(state: AppState, identity: str = "aa", *, log: str | None = None) -> Deployment:
    names, request = (f"bouchet-{identity}",), LaunchRequest(model="Qwen/Qwen3-32B")
    record = Deployment(id=identity, model=request.model, names=names, request=request, created_at=NOW, updated_at=NOW)
    if log:
        record = record.model_copy(update={"jobs": (Job(name="j", slot=0, slurm_id=7, log=log),)})
    return state.store.create(record)


def move(state: AppState, identity: str, phase: Phase, ending: Ending | None = None) -> None:
    state.store.update(identity, lambda d: d.moved(phase, NOW, reason=f"now {phase}", ending=ending))


def test_deployment_events_come_in_order_and_end_with_it(client: httpx.Client, live_api: RunningApi) -> None:
    state = live_api.state
    make(state, "aa")
    make(state, "bb")

    def go_on() -> None:
        move(state, "bb", Phase.SUBMITTING)
        for phase in (Phase.SUBMITTING, Phase.QUEUED):
            time.sleep(0.1)
            move(state, "aa", phase)
        move(state, "aa", Phase.ENDED, Ending.CANCELLED)

    with client.stream("GET", "/v1/deployments/bouchet-aa/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        mover = threading.Thread(target=go_on)
        mover.start()
        seen = list(read_events(response))
        mover.join()
    assert [m["data"]["phase"] for m in seen] == ["requested", "submitting", "queued", "ended"]
    assert {m["data"]["deployment"] for m in seen} == {"aa"}
    resumed = client.get("/v1/deployments/aa/events", headers={"Last-Event-ID": seen[1]["id"]})
    assert resumed.text.count("data:") == 2


def test_event_arrives_without_polling(
    client: httpx.Client, live_api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(live_api.state, "aa")
    # a stream that misses the notification would read after that time
    monkeypatch.setattr(notifier, "LONGEST_WAIT_S", 600.0)
    with client.stream("GET", "/v1/events") as response:
        stream = read_events(response)
        for phase in (Phase.SUBMITTING, Phase.QUEUED, Phase.STARTING):
            move(live_api.state, "aa", phase)
            assert next(stream)["data"]["reason"] == f"now {phase}"


def test_all_events_begin_at_the_requested_id(client: httpx.Client, live_api: RunningApi) -> None:
    make(live_api.state, "aa")
    make(live_api.state, "bb")
    with client.stream("GET", "/v1/events", params={"after": "0"}) as response:
        assert [m["data"]["deployment"] for m in islice(read_events(response), 2)] == ["aa", "bb"]
    bad = client.get("/v1/events", headers={"Last-Event-ID": "nonsense"})
    assert (bad.status_code, bad.headers["content-type"]) == (422, "application/problem+json")
    assert "the id of an event" in bad.json()["detail"]


def test_hundred_streams_hold_no_threads(client: httpx.Client, live_api: RunningApi) -> None:
    make(live_api.state, "aa")
    limits = httpx.Limits(max_connections=200)
    with httpx.Client(
        base_url=live_api.url, headers={"x-api-key": ADMIN_KEY}, limits=limits, timeout=60, verify=NO_TLS
    ) as many:
        pending = [many.stream("GET", "/v1/events") for _ in range(100)]
        opened = [stream.__enter__() for stream in pending]
        assert client.get("/v1/keys").status_code == 200
        move(live_api.state, "aa", Phase.SUBMITTING)
        assert all(next(read_events(response))["data"]["phase"] == "submitting" for response in opened)
        for stream in pending:
            stream.__exit__(None, None, None)


def test_streams_of_unknown_deployment_are_404(client: httpx.Client) -> None:
    for kind in ("events", "logs"):
        answer = client.get(f"/v1/deployments/nosuch/{kind}")
        assert (answer.status_code, answer.json()["kind"]) == (404, "unknown_deployment")


def test_log_is_followed_until_the_deployment_ends(client: httpx.Client, live_api: RunningApi) -> None:
    make(live_api.state, "aa", log=LOG)
    live_api.gateway.files[LOG] = b"one\ntwo\nhal"

    def go_on() -> None:
        time.sleep(0.2)
        live_api.gateway.files[LOG] += b"f\n 10%\r 20%\r 30%\nlast without newline"
        time.sleep(0.2)
        move(live_api.state, "aa", Phase.ENDED, Ending.FAILED)

    writer = threading.Thread(target=go_on)
    with client.stream("GET", "/v1/deployments/aa/logs") as response:
        writer.start()
        seen = list(read_events(response))
    writer.join()
    assert [m["data"]["line"] for m in seen] == ["one", "two", "half", " 30%", "last without newline"]
    assert seen[1]["id"] == "8"
    resumed = client.get("/v1/deployments/aa/logs", headers={"Last-Event-ID": "8"})
    assert resumed.text.count("data:") == 3


def test_log_tail_begins_with_a_whole_line(client: httpx.Client, live_api: RunningApi) -> None:
    make(live_api.state, "aa", log=LOG)
    live_api.gateway.files[LOG] = b"".join(b"line %d\n" % n for n in range(1000))
    with client.stream("GET", "/v1/deployments/aa/logs", params={"tail": 20, "follow": False}) as response:
        assert [m["data"]["line"] for m in read_events(response)] == ["line 998", "line 999"]
    with client.stream("GET", "/v1/deployments/aa/logs", headers={"Last-Event-ID": "0"}, params={"follow": 0}) as whole:
        assert len(list(read_events(whole))) == 1000


def test_log_line_longer_than_a_chunk_is_split(client: httpx.Client, live_api: RunningApi) -> None:
    make(live_api.state, "aa", log=LOG)
    live_api.gateway.files[LOG] = b"x" * 100_000 + b"\nend\n"
    with client.stream("GET", "/v1/deployments/aa/logs", headers={"Last-Event-ID": "0"}, params={"follow": 0}) as whole:
        assert [len(m["data"]["line"]) for m in read_events(whole)] == [65536, 100_000 - 65536, 3]


def test_log_removed_by_the_cleanup_is_404_with_its_date(client: httpx.Client, live_api: RunningApi) -> None:
    made = make(live_api.state, "aa", log=LOG)
    past = datetime(2026, 1, 2, tzinfo=UTC)

    def with_past_date(old: Deployment) -> Deployment:
        assert old.job is not None
        return old.with_job(old.job.model_copy(update={"kept_until": past}), past)

    live_api.store.update(made.id, with_past_date)
    gone = client.get("/v1/deployments/aa/logs", params={"follow": False})
    assert gone.status_code == 404 and "kept until 2026-01-02 and has been removed" in gone.json()["detail"]


def test_missing_log_is_404_unless_it_may_still_appear(client: httpx.Client, live_api: RunningApi) -> None:
    make(live_api.state, "aa")
    none = client.get("/v1/deployments/aa/logs", params={"follow": False})
    assert (none.status_code, none.json()["kind"]) == (404, "no_log_yet")
    make(live_api.state, "bb", log=LOG)
    waits = client.get("/v1/deployments/bb/logs", params={"follow": False})
    assert (waits.status_code, waits.json()["kind"]) == (404, "no_log_yet") and "is still waiting" in waits.text
    for phase in (Phase.SUBMITTING, Phase.QUEUED, Phase.STARTING):
        move(live_api.state, "bb", phase)
    gone = client.get("/v1/deployments/bb/logs", params={"follow": False})
    assert (gone.status_code, gone.json()["kind"]) == (404, "file_missing")

    def appear() -> None:
        time.sleep(0.3)
        live_api.gateway.files[LOG] = b"here\n"

    writer = threading.Thread(target=appear)
    with client.stream("GET", "/v1/deployments/bb/logs") as response:
        writer.start()
        assert next(read_events(response))["data"]["line"] == "here"
    writer.join()


def test_log_stream_survives_a_broken_tunnel(
    client: httpx.Client, live_api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PAUSE_AFTER_FAILURE_S", 0.1)
    make(live_api.state, "aa", log=LOG)
    live_api.gateway.files[LOG] = b"before\n"
    with client.stream("GET", "/v1/deployments/aa/logs") as response:
        stream = read_events(response)
        assert next(stream)["data"]["line"] == "before"
        live_api.gateway.down = True
        problem = next(stream)
        assert (problem["event"], problem["data"]["kind"]) == ("problem", "tunnel_down")
        live_api.gateway.files[LOG] += b"after\n"
        live_api.gateway.down = False
        assert next(stream)["data"]["line"] == "after"
    live_api.gateway.down = True
    answer = client.get("/v1/deployments/aa/logs")
    assert (answer.status_code, answer.json()["kind"]) == (503, "tunnel_down")


def test_split_lines_leaves_out_an_incomplete_line() -> None:
    assert split_lines(b"a\nb", 10) == [LogLine("a", 12)]
    assert split_lines(b"a\nb", 10, complete=True) == [LogLine("a", 12), LogLine("b", 13)]
    assert split_lines("ü\r\n".encode(), 0) == [LogLine("ü", 4)]
    assert split_lines(b"\xc3", 0, complete=True) == [LogLine("\ufffd", 1)]
    assert split_lines(b"", 5, complete=True) == []


def test_tunnel_events_come_among_all_events(
    client: httpx.Client, live_api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    # they come by notification, not by polling
    monkeypatch.setattr(notifier, "LONGEST_WAIT_S", 600.0)
    store = live_api.store
    before = TunnelEvent(state=TunnelState.CONNECTING, host="login", at=NOW)
    store.tunnel.append(before)
    prompt = TunnelEvent(state=TunnelState.NEEDS_HUMAN, host="login", detail="open prompt", waits_for="prompt", at=NOW)
    up = TunnelEvent(state=TunnelState.UP, host="login", at=NOW)
    make(live_api.state, "aa")
    with client.stream("GET", "/v1/events") as response:
        stream = read_events(response)
        # tunnel events begin at the stream's first read
        move(live_api.state, "aa", Phase.SUBMITTING)
        next(stream)
        seen = []
        store.tunnel.append(prompt)
        seen.append(next(stream))
        move(live_api.state, "aa", Phase.QUEUED)
        seen.append(next(stream))
        store.tunnel.append(up)
        seen.append(next(stream))
    assert [m.get("event") for m in seen] == ["tunnel", None, "tunnel"]
    assert [m.get("id") is not None for m in seen] == [False, True, False]
    assert [TunnelEvent.model_validate(seen[n]["data"]) for n in (0, 2)] == [prompt, up]


def test_deployment_events_leave_out_the_tunnel(client: httpx.Client, live_api: RunningApi) -> None:
    make(live_api.state, "aa")
    with client.stream("GET", "/v1/deployments/aa/events") as response:
        live_api.store.tunnel.append(TunnelEvent(state=TunnelState.UP, host="login", at=NOW))
        move(live_api.state, "aa", Phase.ENDED, Ending.CANCELLED)
        seen = list(read_events(response))
    assert [m["data"]["phase"] for m in seen] == ["requested", "ended"]
