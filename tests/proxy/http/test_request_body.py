"""Compressed bodies, credentials and paths, as clients really send them."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from bouchet_core.deployments import Phase
from bouchet_proxy.api_keys import MAX_CREDENTIALS, credentials
from bouchet_proxy.asgi import BodyTooLargeError
from bouchet_proxy.dialects.endpoints import Dialect, dialect_of, normalize_path
from bouchet_proxy.request_body import INPUT_BYTES, MAX_MEMBERS, CorruptBodyError, decompress
from hypothesis import given
from hypothesis import strategies as st

from tests.proxy.client import CHAT, HTTP, MESSAGES, OWNER, chat_body, error_of, get, post, wait_for_status
from tests.proxy.environment import ALIAS, KEY, RunningProxy, make_deployment

LIMIT = 64 << 20
VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture(scope="module", autouse=True)
def model(proxy: RunningProxy) -> Iterator[None]:
    """Have a model that answers."""
    record = proxy.environment.store.create(make_deployment())
    wait_for_status(proxy, 200)
    yield
    proxy.environment.move(record.id, Phase.ENDED)
    wait_for_status(proxy, 404)


def deflate(data: bytes, wbits: int) -> bytes:
    engine = zlib.compressobj(wbits=wbits)
    return engine.compress(data) + engine.flush()


def held(data: bytes, encoding: str, limit: int = LIMIT) -> Any:
    return decompress(data, encoding, limit, lambda piece: None)


# how clients write an encoding that is known
WRITTEN = ("gzip", "x-gzip", "GZIP", "gzip,identity", "deflate", "identity, gzip", "gzip, utf-8")


class TestDecompress:
    @given(st.binary(max_size=3000))
    def test_decompress_returns_what_was_compressed(self, data: bytes) -> None:
        for encoding, packed in (
            ("gzip", gzip.compress(data)),
            ("deflate", zlib.compress(data)),
            ("deflate", deflate(data, -15)),
        ):
            coroutine = held(packed, encoding)
            while True:
                try:
                    coroutine.send(None)
                except StopIteration as done:
                    assert done.value == data
                    break

    async def test_decompress_reads_all_members(self) -> None:
        assert await held(gzip.compress(b"one ") + gzip.compress(b"two"), "gzip") == b"one two"

    async def test_decompress_of_more_members_than_programs_write_is_refused(self) -> None:
        """Each costs time, although it may hold nothing: 64 MiB of them took the loop of all clients for an hour."""
        empty = gzip.compress(b"")
        assert await held(empty * (MAX_MEMBERS - 1) + gzip.compress(b"x"), "gzip") == b"x"
        with pytest.raises(CorruptBodyError):
            await held(empty * (MAX_MEMBERS + 1), "gzip")
        assert await held((gzip.compress(b"one") + b"\0" * 600) * 300, "gzip") == b"one" * 300

    @pytest.mark.parametrize("encoding", ["gzip", "deflate"])
    async def test_decompress_gives_zlib_little_at_a_time(self, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """It copies what it does not use of that, again and again."""
        given, make = list[int](), zlib.decompressobj

        class Engine:
            def __init__(self, wbits: int) -> None:
                self._engine = make(wbits)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._engine, name)

            def decompress(self, data: bytes, most: int) -> bytes:
                given.append(len(data))
                return self._engine.decompress(data, most)

        monkeypatch.setattr(zlib, "decompressobj", Engine)
        noise = random.Random(1).randbytes(1 << 20)
        packed = gzip.compress(noise) if encoding == "gzip" else zlib.compress(noise)
        assert await held(packed, encoding) == noise
        assert max(given) <= INPUT_BYTES and sum(given) >= len(packed)

    async def test_decompress_passes_over_zeros_behind_the_data(self) -> None:
        assert await held(gzip.compress(b"one") + b"\0" * 20, "gzip") == b"one"

    @pytest.mark.parametrize("encoding", ["gzip", "deflate"])
    @pytest.mark.parametrize(
        "data", [b"plain", gzip.compress(b"x" * 99, mtime=0)[:-9], zlib.compress(b"x" * 99)[:-5], b"\x78"]
    )
    async def test_decompress_of_broken_data_raises(self, data: bytes, encoding: str) -> None:
        with pytest.raises(CorruptBodyError):
            await held(data, encoding)

    async def test_decompress_of_a_bomb_stops_at_the_limit(self) -> None:
        bomb = gzip.compress(b"\0" * (64 << 20))
        tracemalloc.start()
        with pytest.raises(BodyTooLargeError):
            await held(bomb, "gzip", 4 << 20)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8 << 20


@pytest.mark.parametrize("encoding", WRITTEN)
@pytest.mark.parametrize("path", [MESSAGES, CHAT])
def test_compressed_body_is_answered(proxy: RunningProxy, path: str, encoding: str) -> None:
    data = json.dumps(chat_body("SAY[ok]")).encode()
    packed = zlib.compress(data) if encoding == "deflate" else gzip.compress(data)
    response = post(proxy, path, packed, **{"content-encoding": encoding})
    assert response.status_code == 200 and "ok" in response.text


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "made-up"])
def test_unknown_encoding_is_refused_with_those_known(proxy: RunningProxy, encoding: str) -> None:
    response = post(proxy, MESSAGES, b"x", **{"content-encoding": encoding})
    assert (response.status_code, response.headers["accept-encoding"]) == (415, "gzip, deflate")
    assert "gzip, deflate" in error_of(response)["message"]


def test_body_that_is_not_compressed_as_declared_is_a_bad_request(proxy: RunningProxy) -> None:
    response = post(proxy, MESSAGES, json.dumps(chat_body("x")).encode(), **{"content-encoding": "gzip"})
    assert response.status_code == 400 and "gzip" in error_of(response)["message"]


def test_compressed_bomb_is_too_large(proxy: RunningProxy) -> None:
    bomb = gzip.compress(b" " * (65 << 20), 1)
    response = post(proxy, MESSAGES, bomb, **{"content-encoding": "gzip"})
    assert (response.status_code, error_of(response)["type"]) == (413, "request_too_large")


# credentials


def status(proxy: RunningProxy, *headers: tuple[str, str]) -> int:
    return HTTP.get(f"{proxy.url}/v1/models", headers=httpx.Headers(list(headers))).status_code


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer sk-ant-oat01-abc"), ("x-api-key", KEY)],
        [("authorization", f"Bearer {KEY}"), ("x-api-key", "sk-ant-api03-other")],
        [("x-api-key", "other"), ("x-api-key", KEY)],
        [("authorization", "Basic abc"), ("x-api-key", KEY)],
        [("authorization", f"bearer   {KEY}")],
        [("authorization", f"Bearer\t{KEY}")],
        [("api-key", KEY)],
    ],
)
def test_any_right_credential_opens(proxy: RunningProxy, headers: list[tuple[str, str]]) -> None:
    assert status(proxy, *headers) == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer")],
        [("authorization", f"Basic {KEY}")],
        [("x-api-key", KEY[:-1])],
        [("x-api-key", f"{KEY} {KEY}")],
        [("authorization", "Bearer a"), ("x-api-key", "b")],
    ],
)
def test_wrong_credentials_do_not_open(proxy: RunningProxy, headers: list[tuple[str, str]]) -> None:
    assert status(proxy, *headers) == 401


@pytest.mark.parametrize(
    "value", [b"Bearer  k ", b"\tBEARER\t k", b" bearer k\r", "Bearer \u00a0k".encode(), b"Bearer k"]
)
def test_white_space_around_a_key_does_no_harm(value: bytes) -> None:
    assert credentials({"headers": [(b"authorization", value)]}) == [b"k"]
    key = value.strip().split()[-1] + b" "
    assert credentials({"headers": [(b"x-api-key", b" " + key)]}) == [b"k"]


@pytest.mark.parametrize(
    ("header", "value", "key"),
    [
        (b"x-api-key", b"Bearer k", [b"k"]),
        (b"authorization", b"k", [b"k"]),
        (b"authorization", "Bearer\u00a0k".encode(), [b"k"]),
        (b"api-key", b'"k"', [b"k"]),
        (b"x-api-key", "\u200bk\ufeff".encode(), [b"k"]),
        (b"authorization", "Bearer \u2060k\u202f".encode(), [b"k"]),
        (b"authorization", b"Basic aaaa", []),
        (b"authorization", b"Bearer", []),
        (b"x-api-key", b" ", []),
    ],
)
def test_key_is_found_as_people_paste_it(header: bytes, value: bytes, key: list[bytes]) -> None:
    assert credentials({"headers": [(header, value)]}) == key


def test_credentials_are_limited_in_number() -> None:
    assert len(credentials({"headers": [(b"x-api-key", b"%d" % n) for n in range(99)]})) == MAX_CREDENTIALS


@pytest.mark.parametrize(
    ("data", "expected", "message"),
    [
        (b"\xef\xbb\xbf" + json.dumps(chat_body("SAY[ok]")).encode(), 200, ""),
        (gzip.compress(b"{}", mtime=0), 400, "content-encoding: gzip"),
        (b'{"model": NaN}', 400, "line 1 column 11"),
        ('{"model": "é"}'.encode("latin-1"), 400, "UTF-8"),
    ],
)
def test_body_that_is_no_json_is_refused_with_what_is_wrong(
    proxy: RunningProxy, data: bytes, expected: int, message: str
) -> None:
    answer = post(proxy, MESSAGES, data)
    assert answer.status_code == expected and message in answer.text


# paths


@pytest.mark.parametrize(
    "path", ["/v1/v1/messages", "//v1/messages", "/v1//messages/", "/v1/v1/v1/messages", "/messages"]
)
def test_path_with_a_base_url_too_many_is_served(proxy: RunningProxy, path: str) -> None:
    assert post(proxy, path, chat_body("SAY[ok]"), **VERSION).json()["content"][0]["text"] == "ok"


@pytest.mark.parametrize("path", ["/v1/v1/chat/completions", "/chat/completions", "/v1/chat/completions/"])
def test_chat_path_with_a_base_url_too_many_is_served(proxy: RunningProxy, path: str) -> None:
    assert post(proxy, path, chat_body("SAY[ok]")).json()["choices"][0]["message"]["content"] == "ok"


@pytest.mark.parametrize(
    "path",
    ["/v1/messages/v1/messages", "/v1/chat/completions/chat/completions", "/api/v1/responses", "/openai/completions"],
)
def test_base_url_with_a_path_too_many_is_named(proxy: RunningProxy, path: str) -> None:
    response = post(proxy, path, chat_body("x"))
    assert response.status_code == 404 and "a path too many" in error_of(response)["message"]


@given(st.text(alphabet="/v1am", max_size=20))
def test_normalize_path_is_idempotent(path: str) -> None:
    assert normalize_path(normalize_path(path)) == normalize_path(path)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_unknown_path_names_those_served_in_the_clients_dialect(proxy: RunningProxy, method: str) -> None:
    for headers, is_anthropic in ((VERSION, True), ({}, False)):
        response = HTTP.request(method, f"{proxy.url}/v1/files", headers={**OWNER, **headers})
        assert response.status_code == 404 and (response.json().get("type") == "error") is is_anthropic
        assert "/v1/messages" in error_of(response)["message"] and "/v1/models" in error_of(response)["message"]


def test_wrong_method_names_the_right_one(proxy: RunningProxy) -> None:
    response = get(proxy, MESSAGES)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_path_that_begins_like_the_list_of_models_is_unknown(proxy: RunningProxy) -> None:
    answer = get(proxy, "/v1/modelsX")
    assert answer.status_code == 404 and error_of(answer)["message"].startswith("unknown path: GET /v1/modelsX")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny", "/v1beta/models", "/models"])
def test_list_of_models_is_for_reading(proxy: RunningProxy, path: str) -> None:
    response = HTTP.delete(proxy.url + path, headers=OWNER)
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    assert HTTP.options(proxy.url + path).headers["allow"] == "GET, HEAD, OPTIONS"
    assert HTTP.options(proxy.url + MESSAGES).headers["allow"] == "POST, OPTIONS"


def test_dialect_of_a_known_endpoint_is_its_own() -> None:
    assert dialect_of(CHAT, client=Dialect.ANTHROPIC) is Dialect.OPENAI
    assert dialect_of(MESSAGES) is dialect_of("/v1/models", client=Dialect.ANTHROPIC) is Dialect.ANTHROPIC


@pytest.mark.parametrize("name", [ALIAS, "default", "claude-sonnet-4-5", "claude-opus-4-5[1m]", "org/tiny-model"])
def test_model_of_any_name_that_a_request_takes_is_found(proxy: RunningProxy, name: str) -> None:
    assert get(proxy, f"/v1/models/{name}", **VERSION).json()["id"] == ALIAS


def test_unknown_model_is_suggested_in_the_clients_dialect(proxy: RunningProxy) -> None:
    response = get(proxy, "/v1/models/tiny-modell", **VERSION)
    assert (response.status_code, response.json()["type"]) == (404, "error")
    assert f"did you mean '{ALIAS}'" in error_of(response)["message"]
