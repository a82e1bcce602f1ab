"""The proxy sends key and prompt only to a server that has proved that it is the job's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from bouchet_core.deployments import Phase

from tests.proxy.client import CHAT, COUNT, HTTP, MESSAGES, OWNER, chat_body, post, wait_for_status
from tests.proxy.environment import RunningProxy, make_deployment, serve_model
from tests.waiting import wait_for


@contextmanager
def serve_other_program(port: int) -> Iterator[set[str]]:
    """Serve a program that answers 200 to everything; yields what it receives."""
    received: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

        def do_GET(self) -> None:
            length = int(self.headers["content-length"] or 0)
            received.update((self.path, self.headers["authorization"] or "", self.rfile.read(length).decode()))
            self.send_response(200)
            self.send_header("x-bouchet-proof", "0" * 64)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_GET

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield received
        server.shutdown()


@pytest.mark.parametrize("path", [MESSAGES, CHAT, COUNT, "/passthrough/impostor/v1/messages"])
def test_wrong_server_gets_neither_key_nor_prompt(proxy: RunningProxy, path: str) -> None:
    with serve_other_program(proxy.environment.slot_base_port + 1) as received:
        record = proxy.environment.store.create(make_deployment("impostor", "org/Other", slot=1))
        body: dict[str, Any] = {**chat_body("SAY[a secret]"), "model": "impostor"}
        wait_for(lambda: "cannot be reached" in HTTP.post(proxy.url + path, json=body, headers=OWNER).text)
        proxy.environment.move(record.id, Phase.ENDED)
    assert received == {"/health", ""}


def test_job_of_older_scripts_is_not_asked_for_a_proof(proxy: RunningProxy) -> None:
    record = make_deployment("older", slot=1)
    job = record.jobs[0].model_copy(update={"proves": False})
    with serve_model(proxy.environment.slot_base_port + 1, "older") as vllm:
        older = proxy.environment.store.create(record.model_copy(update={"jobs": (job,)}))
        wait_for_status(proxy, 200, "older")
        proxy.environment.move(older.id, Phase.ENDED)
        assert vllm.proofs == 0


def test_connection_is_authenticated_once(proxy: RunningProxy) -> None:
    record = proxy.environment.store.create(make_deployment())
    wait_for_status(proxy, 200)
    before = proxy.environment.vllm.proofs
    for _ in range(5):
        assert post(proxy, COUNT, chat_body("x")).status_code == 200
    # one more where the pooled connection expired meanwhile
    assert proxy.environment.vllm.proofs - before <= 1
    proxy.environment.move(record.id, Phase.ENDED)
