"""Server-sent events over a real port: moves and log lines, resumed where they broke off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from bouchet_api import notifier as bell
from bouchet_api.dependencies import AppState
from bouchet_api.routes.streams import LogLine, split_lines
from bouchet_core.deployments import Deployment, Ending, Job, LaunchRequest, Phase
from bouchet_core.tunnel import TunnelEvent, TunnelState

from tests.conftest import RedisServer, free_port
from tests.fakes.gateway_api import TOKEN, FakeGateway
from tests.fakes.running_api import CATALOG, KEY, SITE, RunningApi

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LOG = "/data/bouchet/logs/7.log"


@pytest.fixture
def client(live_api: RunningApi) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live_api.url, headers={"x-api-key": KEY}, timeout=60, trust_env=False) as client:
        yield client


def make(state: AppState, identity: str = "aa", *, log: str | None = None) -> Deployment:
    names, request = (f"bouchet-{identity}",), LaunchRequest(model="Qwen/Qwen3-32B")
    record = Deployment(id=identity, model=request.model, names=names, request=request, created_at=NOW, updated_at=NOW)
    if log:
        record = record.model_copy(update={"jobs": (Job(name="j", slot=0, slurm_id=7, log=log),)})
    return state.store.create(record)


def move(state: AppState, identity: str, phase: Phase, ending: Ending | None = None) -> None:
    state.store.update(identity, lambda d: d.moved(phase, NOW, reason=f"now {phase}", ending=ending))


def messages(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Each message of a stream: its id, event name and parsed data."""
    message: dict[str, Any] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if not line and message:
            yield message
            message = {}
        elif name == "data":
            message["data"] = json.loads(value)
        elif name in ("id", "event"):
            message[name] = value


def test_a_deployments_moves_come_in_order_and_the_stream_ends(client: httpx.Client, live_api: RunningApi) -> None:
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
        seen = list(messages(response))
        mover.join()
    assert [m["data"]["phase"] for m in seen] == ["requested", "submitting", "queued", "ended"]
    assert {m["data"]["deployment"] for m in seen} == {"aa"}
    resumed = client.get("/v1/deployments/aa/events", headers={"Last-Event-ID": seen[1]["id"]})
    assert resumed.text.count("data:") == 2


def test_moves_arrive_at_once(client: httpx.Client, live_api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    make(live_api.state, "aa")
    # whoever waits for no ring looks after that
    monkeypatch.setattr(bell, "LONGEST_WAIT_S", 600.0)
    with client.stream("GET", "/v1/events") as response:
        stream = messages(response)
        for phase in (Phase.SUBMITTING, Phase.QUEUED, Phase.STARTING):
            move(live_api.state, "aa", phase)
            assert next(stream)["data"]["reason"] == f"now {phase}"


def test_all_events_begin_now_or_where_asked(client: httpx.Client, live_api: RunningApi) -> None:
    make(live_api.state, "aa")
    make(live_api.state, "bb")
    with client.stream("GET", "/v1/events", params={"after": "0"}) as response:
        assert [m["data"]["deployment"] for m in islice(messages(response), 2)] == ["aa", "bb"]
    bad = client.get("/v1/events", headers={"Last-Event-ID": "nonsense"})
    assert (bad.status_code, bad.headers["content-type"]) == (422, "application/problem+json")
    assert "the id of an event" in bad.json()["detail"]


def test_a_hundred_streams_hold_no_threads(client: httpx.Client, live_api: RunningApi) -> None:
    make(live_api.state, "aa")
    limits = httpx.Limits(max_connections=200)
    with httpx.Client(
        base_url=live_api.url, headers={"x-api-key": KEY}, limits=limits, timeout=60, trust_env=False
    ) as many:
        streams = [many.stream("GET", "/v1/events") for _ in range(100)]
        opened = [stream.__enter__() for stream in streams]
        assert client.get("/v1/models").status_code == 200
        move(live_api.state, "aa", Phase.SUBMITTING)
        assert all(next(messages(response))["data"]["phase"] == "submitting" for response in opened)
        for stream in streams:
            stream.__exit__(None, None, None)


def test_an_unknown_deployment_has_no_stream(client: httpx.Client) -> None:
    for kind in ("events", "logs"):
        answer = client.get(f"/v1/deployments/nosuch/{kind}")
        assert (answer.status_code, answer.json()["kind"]) == (404, "unknown_deployment")


def test_a_log_is_followed_to_its_end(client: httpx.Client, live_api: RunningApi) -> None:
    make(live_api.state, "aa", log=LOG)
    live_api.gateway.files[LOG] = b"one\ntwo\nhal"

    def go_on() -> None:
        time.sleep(0.5)
        live_api.gateway.files[LOG] += b"f\n 10%\r 20%\r 30%\nlast without newline"
        time.sleep(0.5)
        move(live_api.state, "aa", Phase.ENDED, Ending.FAILED)

    writer = threading.Thread(target=go_on)
    with client.stream("GET", "/v1/deployments/aa/logs") as response:
        writer.start()
        seen = list(messages(response))
    writer.join()
    assert [m["data"]["line"] for m in seen] == ["one", "two", "half", " 30%", "last without newline"]
    assert seen[1]["id"] == "8"
    resumed = client.get("/v1/deployments/aa/logs", headers={"Last-Event-ID": "8"})
    assert resumed.text.count("data:") == 3


def test_the_tail_begins_with_a_whole_line(client: httpx.Client, live_api: RunningApi) -> None:
    make(live_api.state, "aa", log=LOG)
    live_api.gateway.files[LOG] = b"".join(b"line %d\n" % n for n in range(1000))
    with client.stream("GET", "/v1/deployments/aa/logs", params={"tail": 20, "follow": False}) as response:
        assert [m["data"]["line"] for m in messages(response)] == ["line 998", "line 999"]
    with client.stream("GET", "/v1/deployments/aa/logs", headers={"Last-Event-ID": "0"}, params={"follow": 0}) as all_:
        assert len(list(messages(all_))) == 1000


def test_a_line_longer_than_a_piece_still_comes(client: httpx.Client, live_api: RunningApi) -> None:
    make(live_api.state, "aa", log=LOG)
    live_api.gateway.files[LOG] = b"x" * 100_000 + b"\nend\n"
    with client.stream("GET", "/v1/deployments/aa/logs", headers={"Last-Event-ID": "0"}, params={"follow": 0}) as all_:
        assert [len(m["data"]["line"]) for m in messages(all_)] == [65536, 100_000 - 65536, 3]


def test_a_log_removed_by_its_age_says_so(client: httpx.Client, live_api: RunningApi) -> None:
    made = make(live_api.state, "aa", log=LOG)
    past = datetime(2026, 1, 2, tzinfo=UTC)

    def tidied(old: Deployment) -> Deployment:
        assert old.job is not None
        return old.with_job(old.job.model_copy(update={"kept_until": past}), past)

    live_api.state.store.update(made.id, tidied)
    gone = client.get("/v1/deployments/aa/logs", params={"follow": False})
    assert gone.status_code == 404 and "kept until 2026-01-02 and has been removed" in gone.json()["detail"]


def test_a_log_that_is_not_there_is_404_unless_it_may_come(client: httpx.Client, live_api: RunningApi) -> None:
    make(live_api.state, "aa")
    none = client.get("/v1/deployments/aa/logs", params={"follow": False})
    assert (none.status_code, none.json()["kind"]) == (404, "no_log_yet")
    make(live_api.state, "bb", log=LOG)
    gone = client.get("/v1/deployments/bb/logs", params={"follow": False})
    assert (gone.status_code, gone.json()["kind"]) == (404, "file_missing")

    def appear() -> None:
        time.sleep(0.3)
        live_api.gateway.files[LOG] = b"here\n"

    writer = threading.Thread(target=appear)
    with client.stream("GET", "/v1/deployments/bb/logs") as response:
        writer.start()
        assert next(messages(response))["data"]["line"] == "here"
    writer.join()


def test_a_log_survives_a_tunnel_that_breaks(client: httpx.Client, live_api: RunningApi) -> None:
    make(live_api.state, "aa", log=LOG)
    live_api.gateway.files[LOG] = b"before\n"
    with client.stream("GET", "/v1/deployments/aa/logs") as response:
        stream = messages(response)
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


def test_lines_of_a_piece() -> None:
    assert split_lines(b"a\nb", 10) == [LogLine("a", 12)]
    assert split_lines(b"a\nb", 10, complete=True) == [LogLine("a", 12), LogLine("b", 13)]
    assert split_lines("ü\r\n".encode(), 0) == [LogLine("ü", 4)]
    assert split_lines(b"\xc3", 0, complete=True) == [LogLine("\ufffd", 1)]
    assert split_lines(b"", 5, complete=True) == []


def test_the_tunnel_is_shown_answered_and_woken(client: httpx.Client, live_api: RunningApi) -> None:
    gateway = live_api.gateway
    assert client.get("/v1/tunnel").json()["state"] == "up"
    gateway.ask("p1", "Passcode or option (1-2): ")
    assert client.get("/v1/tunnel").json()["prompt"]["questions"] == ["Passcode or option (1-2): "]
    stale = client.post("/v1/tunnel/answer", json={"prompt_id": "p0", "responses": ["1"]})
    assert (stale.status_code, stale.json()["kind"]) == (409, "stale_prompt")
    assert client.post("/v1/tunnel/answer", json={"prompt_id": "p1", "responses": ["1"]}).status_code == 202
    assert gateway.answers == [["1"]]
    assert client.post("/v1/tunnel/connect").status_code == 202
    assert gateway.connects == 1


async def test_a_gateway_that_is_gone_is_503(api: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.stop()
    answer = await api.get("/v1/tunnel")
    assert (answer.status_code, answer.json()["kind"]) == (503, "gateway_unreachable")


def test_the_program_serves_and_stops_with_streams_open(tmp_path: Path, redis_server: RedisServer) -> None:
    secrets = {"api_key": KEY, "redis_password": redis_server.password, "gateway_token": TOKEN}
    for name, value in secrets.items():
        (tmp_path / name).write_text(value)
    (tmp_path / "models.yaml").write_text(CATALOG)
    (tmp_path / "site.yaml").write_text(SITE)
    port = free_port()
    environment = {
        **os.environ,
        "SECRETS_DIR": str(tmp_path),
        "BOUCHET_SITE_FILE": str(tmp_path / "site.yaml"),
        "BOUCHET_CATALOG": str(tmp_path / "models.yaml"),
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis_server.port),
        "GATEWAY_URL": "http://127.0.0.1:1",
        "API_PORT": str(port),
    }
    program = [sys.executable, "-m", "bouchet_api"]
    with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(base_url=url, headers={"x-api-key": KEY}, timeout=60, trust_env=False) as client:
                _until_it_answers(client)
                with client.stream("GET", "/v1/events") as response:
                    assert response.status_code == 200
                    process.send_signal(signal.SIGTERM)
                    output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode in (0, -signal.SIGTERM)
    assert KEY not in output.decode()
    assert "Traceback" not in output.decode()


def test_the_program_names_what_is_missing(tmp_path: Path) -> None:
    environment = {**os.environ, "SECRETS_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "bouchet_api"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "redis_password" in done.stderr
    assert "Traceback" not in done.stderr


def _until_it_answers(client: httpx.Client) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if client.get("/healthz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the API did not start")


def test_the_tunnels_changes_come_among_the_events(
    client: httpx.Client, live_api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    # they come by the bell, not by looking
    monkeypatch.setattr(bell, "LONGEST_WAIT_S", 600.0)
    store = live_api.state.store
    before = TunnelEvent(state=TunnelState.CONNECTING, host="login", at=NOW)
    store.tunnel.append(before)
    asks = TunnelEvent(state=TunnelState.NEEDS_HUMAN, host="login", detail="login asks", waits_for="prompt", at=NOW)
    up = TunnelEvent(state=TunnelState.UP, host="login", at=NOW)
    make(live_api.state, "aa")
    with client.stream("GET", "/v1/events") as response:
        stream = messages(response)
        # the tunnel's count from the stream's first look on
        move(live_api.state, "aa", Phase.SUBMITTING)
        next(stream)
        seen = []
        for tell in (
            lambda: store.tunnel.append(asks),
            lambda: move(live_api.state, "aa", Phase.QUEUED),
            lambda: store.tunnel.append(up),
        ):
            tell()
            seen.append(next(stream))
    assert [m.get("event") for m in seen] == ["tunnel", None, "tunnel"]
    assert [m.get("id") is not None for m in seen] == [False, True, False]
    assert [TunnelEvent.model_validate(seen[n]["data"]) for n in (0, 2)] == [asks, up]


def test_a_deployments_own_events_are_its_own(client: httpx.Client, live_api: RunningApi) -> None:
    make(live_api.state, "aa")
    with client.stream("GET", "/v1/deployments/aa/events") as response:
        live_api.state.store.tunnel.append(TunnelEvent(state=TunnelState.UP, host="login", at=NOW))
        move(live_api.state, "aa", Phase.ENDED, Ending.CANCELLED)
        seen = list(messages(response))
    assert [m["data"]["phase"] for m in seen] == ["requested", "ended"]
