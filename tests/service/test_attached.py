"""Attached servers on the whole way: API, worker, gateway, a real sshd, a proxy, and small servers of others."""

from __future__ import annotations

import contextlib
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bouchet_cli.__main__ import main
from bouchet_core.deployments import Ending, Phase
from bouchet_core.store import Store

from tests.conftest import RedisServer, free_port, start_redis
from tests.fakes.running_api import ADMIN_KEY
from tests.waiting import wait_for

from .model_server import ModelServer, make_certificate, serving
from .whole_way import NODE, WholeWay, whole_way

pytestmark = pytest.mark.slow

MODEL = "centre/Big-Model"
SECRET_KEY = "sk-of-a-colleague_0123456789abcdefghijklmnopqrstuvwxyz.0123456789-and-more"
WAIT_S = 40.0


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeWay]:
    """Yield all of it once for these tests; each uses another name and port."""
    directory = tmp_path_factory.mktemp("whole")
    (directory / "redis").mkdir()
    redis: RedisServer = start_redis(directory / "redis", free_port())
    store: Store = redis.store()
    try:
        with whole_way(store, redis, directory) as house:
            yield house
    finally:
        store.close()
        redis.stop()


def one_model(**more: Any) -> ModelServer:
    return ModelServer([{"id": MODEL, "object": "model", "max_model_len": 32_768}], **more)


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["kind"]


def wait_until_routed(house: WholeWay, name: str) -> None:
    wait_for(lambda: house.chat(name).is_success, WAIT_S, house.text_of_logs)


def test_attached_server_answers_in_both_dialects_with_its_own_key_and_name(house: WholeWay) -> None:
    server, port = one_model(key=SECRET_KEY), free_port()
    with serving(server, port):
        answer = house.attach("centre", port, key=SECRET_KEY)
        assert answer.status_code == 201, answer.text
        record = answer.json()
        assert (record["phase"], record["names"]) == ("ready", ["centre", MODEL])
        assert record["attached"] == {
            "model": MODEL, "dialects": ["openai", "anthropic"], "max_len": None, "has_key": True,
        }  # fmt: skip
        assert record["jobs"][0]["window"] == 32_768
        wait_until_routed(house, "centre")
        assert house.chat("centre", text="ping 1").json()["content"][0]["text"] == "ping 1"
        chat = house.chat(MODEL, "/v1/chat/completions", "ping 2").json()
        assert chat["choices"][0]["message"]["content"] == "ping 2"
        assert {body["model"] for body in server.generations()} == {MODEL}, "by its own name, not by ours"
        assert "cache_salt" not in server.generations()[-1], "a field of vLLM, which this server is not"
        house.request("DELETE", "/v1/deployments/centre")
    assert server.keys() == {f"Bearer {SECRET_KEY}"}


def bouchet(house: WholeWay, *arguments: str) -> tuple[int, str, str]:
    """Run the command line against this API; return its exit status, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    environment = {"BOUCHET_API_URL": house.api_url, "BOUCHET_ADMIN_KEY": ADMIN_KEY, "BOUCHET_API_KEY": "unused"}
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments, environment | {"BOUCHET_ENV_FILE": str(house.directory / "no.env"), "COLUMNS": "120"})
    return status, out.getvalue(), err.getvalue()


def test_commands_attach_show_and_detach(house: WholeWay, tmp_path: Path) -> None:
    server, port = one_model(key=SECRET_KEY), free_port()
    key_file = tmp_path / "key"
    key_file.write_text(f"{SECRET_KEY}\n")
    key_file.chmod(0o644)
    place = ("--node", NODE, "--port", str(port), "--key-file", str(key_file))
    with serving(server, port):
        status, out, err = bouchet(house, "attach", "typed", *place)
        assert (status, out) == (0, f"typed serves {MODEL} of {NODE}:{port}, window of 32,768 tokens\n")
        assert "not ours" in err and "chmod 600" in err and SECRET_KEY not in out + err
        assert "attached; not ours; never cancelled" in bouchet(house, "status")[1]
        assert f"{NODE}:{port}" in bouchet(house, "status", "typed")[1]
        assert json.loads(bouchet(house, "status", "typed", "--json")[1])["attached"]["has_key"] is True
        assert bouchet(house, "attach", "typed", *place)[0] == 1, "the name is taken"
        status, _, err = bouchet(house, "logs", "typed")
        assert status != 0 and "not ours" in err
        assert "is detached; the server itself goes on" in bouchet(house, "cancel", "typed")[1]
    assert bouchet(house, "attach", "typed", *place)[0] == 1, "nothing listens any more"


def test_key_never_reaches_the_server_that_had_the_slot_before(house: WholeWay) -> None:
    before, after, ports = one_model(), one_model(key=SECRET_KEY), (free_port(), free_port())
    with serving(before, ports[0]), serving(after, ports[1]):
        assert house.attach("before", ports[0]).status_code == 201
        wait_until_routed(house, "before")
        slot = house.store.get("before").jobs[0].slot
        house.request("DELETE", "/v1/deployments/before")
        assert house.attach("after", ports[1], key=SECRET_KEY).status_code == 201
        assert house.store.get("after").jobs[0].slot == slot
        wait_until_routed(house, "after")
        house.request("DELETE", "/v1/deployments/after")
    assert before.keys() == {None}


def test_key_of_attached_server_is_neither_stored_nor_logged(house: WholeWay) -> None:
    server, port = one_model(key=SECRET_KEY), free_port()
    with serving(server, port):
        assert house.attach("sealed", port, key=SECRET_KEY).status_code == 201
        wait_until_routed(house, "sealed")
        dumps = [path.read_bytes() for path in (house.directory / "redis").rglob("*") if path.is_file()]
        assert len(dumps) > 1 and not any(SECRET_KEY.encode() in dump for dump in dumps)
        assert SECRET_KEY not in house.text_of_logs()
        assert SECRET_KEY not in house.request("GET", "/v1/status").text
        for process in house.processes.values():
            for file in ("cmdline", "environ"):
                assert SECRET_KEY.encode() not in Path(f"/proc/{process.pid}/{file}").read_bytes()
        house.request("DELETE", "/v1/deployments/sealed")


def test_server_without_key_is_sent_none(house: WholeWay) -> None:
    server, port = one_model(), free_port()
    with serving(server, port):
        assert house.attach("open", port).status_code == 201
        wait_until_routed(house, "open")
        house.request("DELETE", "/v1/deployments/open")
    assert server.keys() == {None}


def test_what_cannot_be_attached_is_refused_with_its_kind(house: WholeWay) -> None:
    wrong_key, page, several = one_model(key="right"), one_model(page="<h1>Jupyter</h1>"), one_model()
    several.models.append({"id": "another"})
    ports = [free_port() for _ in range(4)]
    with serving(wrong_key, ports[0]), serving(page, ports[1]), serving(several, ports[2]):
        found = {
            "wrong key": problem(house.attach("a", ports[0], key="wrong")),
            "no key": problem(house.attach("a", ports[0])),
            "a page": problem(house.attach("a", ports[1])),
            "several": problem(house.attach("a", ports[2])),
            "not that one": problem(house.attach("a", ports[2], model="third")),
            "closed": problem(house.attach("a", ports[3])),
        }
        assert house.attach("one-of-two", ports[2], model="another").json()["model"] == "another"
        taken = [house.attach("one-of-two", ports[0], key="right"), house.attach("b", ports[2], model="another")]
        house.request("DELETE", "/v1/deployments/one-of-two")
    assert found == {
        "wrong key": (422, "server_key_refused"),
        "no key": (422, "server_key_refused"),
        "a page": (422, "no_model_server"),
        "several": (422, "model_not_served"),
        "not that one": (422, "model_not_served"),
        "closed": (502, "server_unreachable"),
    }
    assert [problem(answer) for answer in taken] == [(409, "name_taken"), (422, "attach_refused")]
    assert not house.store.live(), "what was refused left no record"


def test_server_with_tls_is_refused_before_it_gets_a_request_or_key(house: WholeWay, tmp_path: Path) -> None:
    server, port = one_model(key=SECRET_KEY), free_port()
    with serving(server, port, make_certificate(tmp_path)):
        answer = house.attach("secure", port, key=SECRET_KEY)
    assert problem(answer) == (422, "no_model_server")
    assert "the server speaks TLS (https)" in answer.json()["detail"] and "plain port" in answer.json()["detail"]
    assert server.asked == [] and not house.store.live()


@pytest.mark.parametrize(
    ("node", "port"),
    [
        ("127.0.0.1", 8000), ("localhost", 8000), ("ip6-localhost", 8000), ("127.1", 8000), ("0x7f.1", 8000),
        ("10.0.0.7", 8000), ("::1", 8000), ("-oProxyCommand=x", 8000), ("no-such-node", 8000), ("redis", 6379),
        (NODE, 22), (NODE, 0), (NODE, 70_000), (NODE, 6817),
    ],
)  # fmt: skip
def test_other_hosts_and_ports_are_refused(house: WholeWay, node: str, port: int) -> None:
    answer = house.request("POST", "/v1/deployments/attach", {"name": "x", "node": node, "port": port})
    assert problem(answer) in ((422, "attach_refused"), (422, "bad_request")), answer.text
    assert house.store.slot_target(0) is None, "no slot leads there"


def test_attached_server_that_goes_away_is_not_reachable_and_comes_back(house: WholeWay) -> None:
    server, port = one_model(), free_port()

    def phase() -> Phase:
        return house.store.get("wanderer").phase

    with serving(server, port):
        assert house.attach("wanderer", port).status_code == 201
        wait_until_routed(house, "wanderer")
    wait_for(lambda: phase() is Phase.STARTING, WAIT_S, house.text_of_logs)
    assert house.store.get("wanderer").reason.startswith("not reachable: ")
    wait_for(lambda: "not ours" in house.chat("wanderer").text, WAIT_S)
    answer = house.chat("wanderer")
    assert answer.status_code == 529 and answer.json()["error"]["type"] == "overloaded_error"
    assert int(answer.headers["retry-after"]) > 0
    with serving(server, port):
        wait_for(lambda: phase() is Phase.READY, WAIT_S, house.text_of_logs)
        wait_until_routed(house, "wanderer")
        house.request("DELETE", "/v1/deployments/wanderer")


def test_attached_server_is_served_after_worker_and_gateway_restart(house: WholeWay) -> None:
    server, port = one_model(key=SECRET_KEY), free_port()
    with serving(server, port):
        assert house.attach("steady", port, key=SECRET_KEY).status_code == 201
        wait_until_routed(house, "steady")
        for name, module in (("worker", "bouchet_worker"), ("gateway", "bouchet_gateway")):
            house.stop(name)
            house.start(name, module)
        server.asked.clear()
        wait_for(lambda: any(path == "/v1/models" for _, path, _, _ in server.asked), WAIT_S, house.text_of_logs)
        wait_until_routed(house, "steady")
        assert house.store.get("steady").phase is Phase.READY
        house.request("DELETE", "/v1/deployments/steady")


def test_cancel_only_detaches_and_asks_nothing_of_the_cluster(house: WholeWay) -> None:
    server, port = one_model(), free_port()
    with serving(server, port):
        identity = house.attach("theirs", port).json()["id"]
        slot = house.store.get("theirs").jobs[0].slot
        calls = house.directory / "home" / "scontrol-calls"
        before = calls.read_text()
        answer = house.request("DELETE", "/v1/deployments/theirs")
        assert answer.status_code == 202 and answer.json()["ending"] == "detached"
        record = house.store.get(identity)
        assert (record.phase, record.ending) == (Phase.ENDED, Ending.DETACHED)
        assert house.store.slot_target(slot) is None, "the slot leads there no more"
        assert house.request("PATCH", f"/v1/deployments/{identity}", {}).json()["kind"] == "launch_refused"
        assert calls.read_text() == before
        with socket.create_connection((NODE, port), timeout=5):
            pass
        assert house.attach("theirs", port).status_code == 201, "name, slot and server are free again"
        house.request("DELETE", "/v1/deployments/theirs")
