"""Messages for invalid requests."""

from __future__ import annotations

from typing import Any

import httpx
import pytest


@pytest.mark.parametrize("span", ["3x", "", "0d", "-1h", "1e9s"])
async def test_bad_time_span_message_has_examples(api: httpx.AsyncClient, span: str) -> None:
    used = await api.get("/v1/usage", params={"since": span})
    made = await api.post("/v1/keys", json={"name": "bob", "expires_in": span})
    assert (used.status_code, made.status_code) == (422, 422)
    assert used.json()["detail"] == "since: must be a time span such as 15m, 24h or 30d"
    assert made.json()["detail"] == "expires_in: must be a time span such as 12h, 30d or 8w"


@pytest.mark.parametrize(
    ("body", "field", "expected"),
    [
        ({"model": "m", "gpus": 0}, "gpus", "must be 1 or more"),
        ({"model": "m", "time": "six hours"}, "time", "06:00:00"),
        ({"model": "m", "name": "Ä"}, "name", "lower-case letters"),
        ({"model": "m", "modle": 1}, "modle", "did you mean `model`?"),
        ({"model": "m", "serve_as": ["opus", "sonet"]}, "serve_as.1", "'sonnet'"),
        ({}, "model", "is missing"),
        ([], "", "must be a JSON object"),
    ],
)
async def test_bad_field_is_named_with_what_it_takes(
    api: httpx.AsyncClient, body: Any, field: str, expected: str
) -> None:
    answer = await api.post("/v1/deployments", json=body)
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["field"] == field
    assert expected in error["problem"]
    assert error["problem"] in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"model": "\\ud800"}', b'{"\\ud800": 1}', b"[" * 100_000])
async def test_undecodable_body_is_refused(api: httpx.AsyncClient, body: bytes) -> None:
    answer = await api.post("/v1/deployments", content=body)
    assert answer.status_code in (400, 404, 422)
    assert answer.json()["kind"] in ("bad_request", "unknown_model")


async def test_invalid_json_message_has_no_position_as_field(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/deployments", content=b"{")
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("the body is not valid JSON")


async def test_message_does_not_repeat_a_passcode(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/tunnel/answer", json={"prompt_id": "p", "responses": "987654"})
    assert answer.status_code == 422
    assert "987654" not in answer.text


async def test_request_without_a_body_says_so(api: httpx.AsyncClient) -> None:
    for path in ("/v1/deployments", "/v1/keys", "/v1/session"):
        answer = await api.post(path)
        assert (answer.status_code, answer.json()["detail"]) == (422, "the body is missing; send a JSON object"), path
