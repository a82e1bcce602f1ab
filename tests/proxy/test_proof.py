"""The proxy gives key and prompt to a server alone that has proved to be the job's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from bouchet_core.deployments import Phase

from tests.proxy.contract import CHAT, COUNT, MESSAGES, ask, post, until
from tests.proxy.running import KEY, Door, Ground, deployment, front_in_thread

AUTH = {"x-api-key": KEY}


@pytest.fixture(scope="module")
def door(ground: Ground) -> Iterator[Door]:
    with front_in_thread(ground) as door:
        yield door


class Stranger(BaseHTTPRequestHandler):
    """Says yes to everybody, and keeps what it is sent."""

    protocol_version = "HTTP/1.1"
    sent: tuple[str, ...] = ()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        length = int(self.headers["content-length"] or 0)
        words = (self.path, self.headers["authorization"] or "", self.rfile.read(length).decode())
        type(self).sent += words
        self.send_response(200)
        self.send_header("x-bouchet-proof", "0" * 64)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET


@pytest.mark.parametrize("path", [MESSAGES, CHAT, COUNT, "/passthrough/stranger/v1/messages"])
def test_a_stranger_on_the_port_gets_neither_key_nor_prompt(door: Door, path: str) -> None:
    kind = type("One", (Stranger,), {})
    with ThreadingHTTPServer(("127.0.0.1", door.ground.slot_base_port + 1), kind) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        record = door.ground.store.create(deployment("stranger", "org/Other", slot=1))
        body = {**ask("SAY[a secret]"), "model": "stranger"}
        until(lambda: "cannot be reached" in httpx.post(door.url + path, json=body, headers=AUTH, timeout=30).text)
        door.ground.store.update(record.id, lambda d: d.moved(Phase.ENDED, datetime.now(UTC)))
        server.shutdown()
    assert set(kind.sent) == {"/health", ""}


def test_a_job_of_older_scripts_is_asked_for_no_proof(ground: Ground) -> None:
    record = deployment()
    older = record.model_copy(update={"jobs": (record.jobs[0].model_copy(update={"proves": False}),)})
    before = proofs(ground)
    with front_in_thread(ground) as door:
        kept = ground.store.create(older)
        until(lambda: httpx.post(door.url + COUNT, json=ask("x"), headers=AUTH, timeout=30).status_code == 200)
        ground.store.update(kept.id, lambda d: d.moved(Phase.ENDED, datetime.now(UTC)))
    assert proofs(ground) == before


def test_a_connection_is_proved_once(door: Door) -> None:
    record = door.ground.store.create(deployment())
    until(lambda: post(door, COUNT, ask("x")).status_code == 200)
    before = proofs(door.ground)
    for _ in range(5):
        assert post(door, COUNT, ask("x")).status_code == 200
    # one more where a connection came to its age meanwhile
    assert proofs(door.ground) - before <= 1
    door.ground.store.update(record.id, lambda d: d.moved(Phase.ENDED, datetime.now(UTC)))


def proofs(ground: Ground) -> int:
    """How often the model was asked for a proof."""
    return int(httpx.get(f"http://127.0.0.1:{ground.fake.port}/fake/proofs", timeout=30).text)
