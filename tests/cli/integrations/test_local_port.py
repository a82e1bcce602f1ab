"""`bouchet tunnel --port`: a local port for one model, and who may use it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from bouchet_cli.integrations.local_port import RequestRejectedError, rewrite_head
from bouchet_core.gateway_client import NO_TLS

from tests.cli.harness import ALIAS, KEY, Bouchet, one_line_error

HEAD = (
    b"POST /v1/chat/completions?a=%2F HTTP/1.1\r\n"
    b"Host: localhost:8000\r\nAuthorization: Bearer theirs\r\nX-Mine: 1\r\n\r\n"
)
CHAT = "/v1/chat/completions"


@pytest.fixture
def port(bouchet: Bouchet) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Yield the URL of an open port, and its process."""
    bouchet.launch_ready()
    argv = bouchet.program("tunnel", "--port", "0")
    with subprocess.Popen(argv, env=dict(bouchet.environment), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found and ALIAS in line, line
            yield found[0], process
        finally:
            process.kill()


def test_requests_reach_the_proxy_with_the_owners_key(
    bouchet: Bouchet, port: tuple[str, subprocess.Popen[str]]
) -> None:
    url, process = port
    with httpx.Client(base_url=url, timeout=30, verify=NO_TLS) as tool:
        for _ in range(2):
            answer = tool.post(CHAT, json={"model": ALIAS}, headers={"authorization": "Bearer x"})
            assert answer.text.endswith("data: [DONE]\n\n")
    assert bouchet.proxy.keys == [f"Bearer {KEY}"] * 2
    assert bouchet.proxy.paths == [f"/passthrough/{ALIAS}{CHAT}"] * 2
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


def test_web_pages_are_rejected_and_ctrl_c_does_not_wait(
    bouchet: Bouchet, port: tuple[str, subprocess.Popen[str]]
) -> None:
    url, process = port
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        assert httpx.post(url + CHAT, json={}, headers=headers, timeout=30, verify=NO_TLS).status_code == 403
    assert bouchet.proxy.requests == []
    local = {"origin": "http://localhost:3000"}
    assert httpx.post(url + "/x", json={}, headers=local, timeout=30, verify=NO_TLS).status_code == 200
    bouchet.proxy.pause_s = 20.0
    with httpx.stream("POST", url + CHAT, json={}, timeout=30, verify=NO_TLS) as answer:
        assert answer.status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 130
    bouchet.proxy.pause_s = 0.0


def test_port_in_use_is_an_error(bouchet: Bouchet) -> None:
    bouchet.launch_ready()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        number = str(holder.getsockname()[1])
        done = bouchet("tunnel", "--port", number)
    assert one_line_error(done, 1) and number in done.err


@pytest.mark.parametrize("number", ["-1", "70000", "many"])
def test_port_that_is_not_a_port_is_a_usage_error(bouchet: Bouchet, number: str) -> None:
    assert one_line_error(bouchet("tunnel", f"--port={number}"), 2)


def test_port_without_a_ready_model_is_not_ready(bouchet: Bouchet) -> None:
    assert one_line_error(bouchet("tunnel", "--port", "0"), 3)


def test_rewrite_head_replaces_path_and_key() -> None:
    lines = rewrite_head(HEAD, "/passthrough/m", "127.0.0.1:4000", "k").decode().split("\r\n")
    assert lines[0] == "POST /passthrough/m/v1/chat/completions?a=%2F HTTP/1.1"
    assert sorted(lines[1:-2]) == ["Authorization: Bearer k", "Connection: close", "Host: 127.0.0.1:4000", "X-Mine: 1"]


@pytest.mark.parametrize("first", [b"GET http://x/ HTTP/1.1", b"CONNECT x:1 HTTP/1.1", b"GET /", b"\x16\x03\x01", b""])
def test_rewrite_head_rejects_what_is_not_a_request_for_a_path(first: bytes) -> None:
    with pytest.raises(RequestRejectedError):
        rewrite_head(first + b"\r\nHost: localhost\r\n\r\n", "/passthrough/m", "p", "k")
