"""The limit on the head of a request, with a socket and without a key."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from urllib.parse import urlsplit

import pytest
from bouchet_core.deployments import Phase
from bouchet_proxy.http.server_protocol import MAX_HEAD_BYTES, MAX_HEADERS

from tests.proxy.client import MESSAGES, anthropic_text, chat_body, wait_for_status
from tests.proxy.environment import KEY, RunningProxy, make_deployment
from tests.proxy.stream_checker import check_stream

LINE = b"GET /health/liveliness HTTP/1.1\r\nhost: x\r\n"
TIMEOUT_S, MOST_SENT = 20.0, 16 << 20


@contextmanager
def connect(proxy: RunningProxy) -> Iterator[socket.socket]:
    place = urlsplit(proxy.url)
    with socket.create_connection((place.hostname, place.port), TIMEOUT_S) as client:
        yield client


def read_answer(client: socket.socket) -> bytes:
    """Return what the server still sends; a server that closes while we send may reset the connection."""
    answer = b""
    try:
        while piece := client.recv(1 << 16):
            answer += piece
            if b"\r\n\r\n" in answer:
                break
    except ConnectionError:
        pass
    return answer


def sent_until_closed(client: socket.socket, pieces: Iterator[bytes]) -> int:
    """Send until the server has closed; return how many bytes it took."""
    sent = 0
    try:
        for piece in pieces:
            client.sendall(piece)
            sent += len(piece)
            assert sent < MOST_SENT, "the server takes headers without end"
    except ConnectionError:
        pass
    return sent


def test_refusal_arrives_while_the_head_is_still_being_sent(proxy: RunningProxy) -> None:
    """A reset would take the answer away from a client that writes before it reads."""
    head = LINE + b"".join(b"x-%d: yyyyyyyyyyyyyyyyyyyy\r\n" % number for number in range(10_000))
    for _ in range(20):
        with connect(proxy) as client:
            # at once: who takes longer than LINGER_S may see a reset
            client.sendall(head)
            assert read_answer(client).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "head",
    [
        LINE + b"x-a: b\r\n" * (MAX_HEADERS + 1),
        LINE + b"x-a: " + b"b" * MAX_HEAD_BYTES + b"\r\n",
        b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n",
    ],
    ids=["many", "long", "url"],
)
def test_head_above_the_limit_is_refused(proxy: RunningProxy, head: bytes) -> None:
    with connect(proxy) as client:
        client.sendall(head + b"\r\n")
        assert read_answer(client).startswith(b"HTTP/1.1 431 ")
        assert client.recv(1) == b""


@pytest.mark.parametrize("piece", [b"x" * 4096, b"x-a: b\r\n" * 50], ids=["one header", "many headers"])
def test_head_without_end_is_cut(proxy: RunningProxy, piece: bytes) -> None:
    with connect(proxy) as client:
        client.sendall(LINE + b"x-b: ")
        sent_until_closed(client, repeat(piece))


@pytest.mark.parametrize("piece", [b"x" * 4096, b"x-a: b\r\n" * 50], ids=["one header", "many headers"])
def test_trailer_without_end_is_cut(proxy: RunningProxy, piece: bytes) -> None:
    head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
    with connect(proxy) as client:
        client.sendall(head + b"x-b: ")
        sent_until_closed(client, repeat(piece))


def test_many_requests_on_one_connection_are_counted_one_by_one(proxy: RunningProxy) -> None:
    request = LINE + b"x-a: " + b"b" * (MAX_HEAD_BYTES // 2) + b"\r\n" + b"x-c: d\r\n" * (MAX_HEADERS // 2) + b"\r\n"
    with connect(proxy) as client:
        for _ in range(4):
            for start in range(0, len(request), 10_000):
                client.sendall(request[start : start + 10_000])
            answer = b""
            while not answer.endswith(b"}"):
                answer += client.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("streamed", [False, True])
def test_answer_to_http_10_has_no_chunks_and_ends_with_the_connection(proxy: RunningProxy, streamed: bool) -> None:
    record = proxy.environment.store.create(make_deployment())
    wait_for_status(proxy, 200)
    body = json.dumps(chat_body("SAY[one two]", stream=streamed)).encode()
    head = (
        f"POST {MESSAGES} HTTP/1.0\r\nx-api-key: {KEY}\r\ncontent-length: {len(body)}\r\nconnection: keep-alive\r\n\r\n"
    )
    with connect(proxy) as client:
        client.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
    proxy.environment.move(record.id, Phase.ENDED)
    wait_for_status(proxy, 404)
    received, _, content = answer.partition(b"\r\n\r\n")
    assert b" 200 " in received.splitlines()[0] and b"transfer-encoding" not in received.lower()
    if streamed:
        assert anthropic_text(check_stream(MESSAGES, content)) == "one two"
    else:
        assert json.loads(content)["content"][0]["text"] == "one two"
