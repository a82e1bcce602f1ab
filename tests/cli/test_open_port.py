"""`bouchet tunnel --port`: a plain port, and who may use it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from bouchet_cli.integrations.local_port import Unwelcome, rewritten

from tests.cli.conftest import Bouchet, advance
from tests.cli.test_commands import QWEN, TO_READY, launched
from tests.fakes.running_api import KEY

HEAD = (
    b"POST /v1/chat/completions?a=%2F HTTP/1.1\r\n"
    b"Host: localhost:8000\r\nAuthorization: Bearer theirs\r\nX-Mine: 1\r\n\r\n"
)


@pytest.fixture
def alias(bouchet: Bouchet) -> str:
    return advance(bouchet.store, launched(bouchet, QWEN), *TO_READY).alias


@pytest.fixture
def opened(bouchet: Bouchet, alias: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The open port's address, and the program."""
    argv = bouchet.program("tunnel", "--port", "0")
    with subprocess.Popen(argv, env=dict(bouchet.environment), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = process.stderr.readline()
            found = re.match(r"(http://127\.0\.0\.1:\d+) leads to the vLLM of (\S+),", said)
            assert found and found[2] == alias, said
            assert "Everybody on this machine" in process.stderr.readline()
            yield found[1], process
        finally:
            process.kill()


def test_what_a_tool_asks_reaches_the_proxy_with_the_owners_key(
    bouchet: Bouchet, opened: tuple[str, subprocess.Popen[str]], alias: str
) -> None:
    url, process = opened
    with httpx.Client(base_url=url, timeout=30) as tool:
        for _ in range(2):
            answer = tool.post("/v1/chat/completions", json={"model": alias}, headers={"authorization": "Bearer x"})
            assert answer.text.endswith("data: [DONE]\n\n")
    assert bouchet.proxy.keys == [f"Bearer {KEY}"] * 2
    assert bouchet.proxy.paths == [f"/passthrough/{alias}/v1/chat/completions"] * 2
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


def test_pages_of_the_web_are_turned_away(bouchet: Bouchet, opened: tuple[str, subprocess.Popen[str]]) -> None:
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        refused = httpx.post(opened[0] + "/v1/chat/completions", json={}, headers=headers, timeout=30)
        assert (refused.status_code, "is not this machine" in refused.text) == (403, True)
    assert bouchet.proxy.requests == []
    assert (
        httpx.post(opened[0] + "/x", json={}, headers={"origin": "http://localhost:3000"}, timeout=30).status_code
        == 200
    )


def test_a_long_answer_does_not_keep_ctrl_c_waiting(
    bouchet: Bouchet, opened: tuple[str, subprocess.Popen[str]]
) -> None:
    bouchet.proxy.pause_s = 20.0
    with httpx.stream("POST", opened[0] + "/v1/chat/completions", json={}, timeout=30) as answer:
        assert answer.status_code == 200
        opened[1].send_signal(signal.SIGINT)
        assert opened[1].wait(15) == 130
    bouchet.proxy.pause_s = 0.0


def test_a_port_that_is_taken_and_one_that_is_none(bouchet: Bouchet, alias: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        taken = bouchet("tunnel", "--port", str(port))
    assert (taken.status, f"port {port} cannot be opened" in taken.err) == (1, True)
    for wrong in ("-1", "70000", "many"):
        assert bouchet("tunnel", f"--port={wrong}").status == 2
    assert bouchet("tunnel", "--port", "0", "--json").status == 2


def test_without_a_model_there_is_no_port(bouchet: Bouchet) -> None:
    nothing = bouchet("tunnel", "--port", "0")
    assert (nothing.status, "nothing runs" in nothing.err) == (3, True)


def test_a_request_gets_the_path_and_the_key() -> None:
    lines = rewritten(HEAD, "/passthrough/m", "127.0.0.1:4000", "k").decode().split("\r\n")
    assert lines[0] == "POST /passthrough/m/v1/chat/completions?a=%2F HTTP/1.1"
    assert sorted(lines[1:-2]) == ["Authorization: Bearer k", "Connection: close", "Host: 127.0.0.1:4000", "X-Mine: 1"]


@pytest.mark.parametrize("first", [b"GET http://x/ HTTP/1.1", b"CONNECT x:1 HTTP/1.1", b"GET /", b"\x16\x03\x01", b""])
def test_what_is_no_request_for_a_path_is_refused(first: bytes) -> None:
    with pytest.raises(Unwelcome):
        rewritten(first + b"\r\nHost: localhost\r\n\r\n", "/passthrough/m", "p", "k")
