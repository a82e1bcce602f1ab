"""Requests recorded from several versions of Claude Code: all are served, and later turns extend earlier ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from bouchet_core.deployments import Phase, Traits
from bouchet_proxy.dialects.anthropic import BILLING, prepare_messages
from bouchet_proxy.dialects.blocks import IMAGE_NOTE

from tests.claude.recordings import RECORDED, SENTENCE, anonymize, pack, read_recordings, unpack
from tests.proxy.client import COUNT, HTTP, MESSAGES, OWNER, get
from tests.proxy.environment import RunningProxy, make_deployment, serve_model
from tests.proxy.stream_checker import check_stream
from tests.waiting import wait_for

TEXT_ONLY = Traits(tool_parser="hermes", max_output=8192)
CLIENTS = dict(read_recordings())
MAX_FILE_BYTES = 60_000


@pytest.fixture(scope="module")
def model(proxy: RunningProxy) -> Iterator[None]:
    """Serve a model whose context window is large enough for every recorded request."""
    with serve_model(proxy.environment.slot_base_port + 1, window=1_000_000):
        record = proxy.environment.store.create(make_deployment(traits=TEXT_ONLY, slot=1))
        wait_for(lambda: get(proxy, "/v1/models").json()["data"])
        yield
        proxy.environment.move(record.id, Phase.ENDED)


def prepare(request: dict[str, Any]) -> dict[str, Any]:
    return prepare_messages(request["body"], 200_000, TEXT_ONLY)


def test_recordings_of_several_versions_are_small() -> None:
    assert len(CLIENTS) >= 3
    assert all(path.stat().st_size < MAX_FILE_BYTES for path in RECORDED.glob("*.json"))


@pytest.mark.parametrize("client", CLIENTS)
def test_recording_contains_no_original_text(client: str) -> None:
    text = json.dumps([request["body"] for request in CLIENTS[client]])
    assert SENTENCE in text
    for original in ("/tmp/", "/home/", "/root", "Anthropic's", "alpha", "You are"):
        assert original not in text


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("client", CLIENTS)
def test_recorded_requests_are_served(client: str, proxy: RunningProxy) -> None:
    for request in CLIENTS[client]:
        body = request["body"]
        response = HTTP.post(f"{proxy.url}{MESSAGES}?beta=true", json=body, headers=OWNER)
        assert response.status_code == 200, response.text
        if body.get("stream"):
            assert check_stream(MESSAGES, response.content)[-1].name == "message_stop"
        counted = HTTP.post(proxy.url + COUNT, json=body, headers=OWNER)
        assert counted.status_code == 200, counted.text


@pytest.mark.parametrize("client", CLIENTS)
def test_prepared_body_has_no_billing_header_and_no_images(client: str) -> None:
    for request in CLIENTS[client]:
        text = json.dumps(prepare(request))
        assert BILLING not in text and '"type": "image"' not in text
        assert '"type": "image"' not in json.dumps(request["body"]) or IMAGE_NOTE in text


@pytest.mark.parametrize("client", CLIENTS)
def test_prepared_turn_extends_the_earlier_ones(client: str) -> None:
    """Check that where the client's conversation extends an earlier one, so does the prepared one."""
    before: list[dict[str, Any]] = []
    extended = 0
    for request in CLIENTS[client]:
        for earlier in before:
            if request["body"].get("tools") == earlier["body"]["tools"] and extends(earlier["body"], request["body"]):
                assert extends(prepare(earlier), prepare(request))
                extended += 1
        if "tools" in request["body"]:
            before.append(request)
    assert extended


def extends(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Return whether the second body is the first with more turns."""
    earlier, later = ([normalize(turn) for turn in body["messages"]] for body in (one, two))
    return one.get("system") == two.get("system") and later[: len(earlier)] == earlier


def normalize(turn: dict[str, Any]) -> dict[str, Any]:
    """Return the turn as vLLM renders it: a string is a list of one text block, and cache control is ignored."""
    content = turn["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {**turn, "content": [{k: v for k, v in block.items() if k != "cache_control"} for block in blocks]}


def test_pack_and_unpack_keep_everything_but_texts() -> None:
    block = {"type": "text", "text": "<system-reminder>\n" + "secret " * 30}
    long: dict[str, Any] = {"role": "user", "content": [block]}
    schema = {"type": "object", "properties": {"a": {"description": "what", "enum": ["b"]}}, "required": ["a"]}
    body: dict[str, Any] = {"model": "m", "tools": [{"name": "f", "input_schema": schema}], "messages": [long]}
    call = {"type": "tool_use", "id": "toolu_xyz", "name": "f", "input": {"a": "/home/me"}}
    later = {**body, "messages": [long, {"role": "assistant", "content": [call]}]}
    requests = [{"path": "/v1/messages", "body": anonymize(one)} for one in (body, later)]
    packed = json.dumps(pack(requests))
    assert "secret" not in packed and "xyz" not in packed and "/home" not in packed and "what" not in packed
    one, two = (request["body"] for request in unpack(json.loads(packed)))
    assert two["tools"] == one["tools"] and two["messages"][0] == one["messages"][0]
    text = one["messages"][0]["content"][0]["text"]
    assert text.startswith("<system-reminder>\n") and len(text) == len(long["content"][0]["text"])
    assert one["tools"][0]["input_schema"]["properties"]["a"]["enum"] == ["b"]
