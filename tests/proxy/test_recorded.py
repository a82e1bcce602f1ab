"""What real versions of Claude Code have sent (tests/claude/record.py): all of it is taken, and keeps its prefix."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from bouchet_core.deployments import Phase, Traits
from bouchet_proxy.dialects.anthropic import BILLING, NO_IMAGES, prepare_messages

from tests.claude.shapes import RECORDED, SENTENCE, blanked, pack, recordings, unpack
from tests.proxy.contract import MESSAGES, until
from tests.proxy.running import KEY, Door, Ground, deployment, front_in_thread, start_fake
from tests.proxy.stream_checker import check_stream

TEXT_ONLY = Traits(tool_parser="hermes", max_output=8192)
CLIENTS = dict(recordings())
MOST_BYTES = 60_000


@pytest.fixture(scope="module")
def door(ground: Ground) -> Iterator[Door]:
    """The proxy before a model whose window takes whatever was recorded."""
    fake = start_fake(ground.slot_base_port + 1, window=1_000_000)
    made = ground.store.create(deployment(traits=TEXT_ONLY, slot=1))
    try:
        with front_in_thread(ground) as door:
            until(lambda: httpx.get(f"{door.url}/v1/models", headers={"x-api-key": KEY}, timeout=30).json()["data"])
            yield door
    finally:
        ground.store.update(made.id, lambda d: d.moved(Phase.ENDED, datetime.now(UTC)))
        fake.stop()


def prepared(request: dict[str, Any]) -> dict[str, Any]:
    return prepare_messages(request["body"], 200_000, TEXT_ONLY)


def test_several_versions_are_recorded_in_small_files() -> None:
    assert len(CLIENTS) >= 3
    assert all(path.stat().st_size < MOST_BYTES for path in RECORDED.glob("*.json"))


@pytest.mark.parametrize("client", CLIENTS)
def test_no_word_of_the_client_or_of_a_machine_is_kept(client: str) -> None:
    text = json.dumps([request["body"] for request in CLIENTS[client]])
    assert SENTENCE in text
    for word in ("/tmp/", "/home/", "/root", "Anthropic's", "alpha", "You are"):
        assert word not in text


@pytest.mark.parametrize("client", CLIENTS)
def test_every_request_is_answered(client: str, door: Door) -> None:
    for request in CLIENTS[client]:
        body = request["body"]
        answer = httpx.post(f"{door.url}{MESSAGES}?beta=true", json=body, headers={"x-api-key": KEY}, timeout=30)
        assert answer.status_code == 200, answer.text
        if body.get("stream"):
            assert check_stream(MESSAGES, answer.content)[-1].name == "message_stop"
        counted = httpx.post(f"{door.url}{MESSAGES}/count_tokens", json=body, headers={"x-api-key": KEY}, timeout=30)
        assert counted.status_code == 200, counted.text


@pytest.mark.parametrize("client", CLIENTS)
def test_nothing_that_changes_or_that_a_model_cannot_read_is_left(client: str) -> None:
    for request in CLIENTS[client]:
        text = json.dumps(prepared(request))
        assert BILLING not in text and '"type": "image"' not in text
        assert '"type": "image"' not in json.dumps(request["body"]) or NO_IMAGES in text


@pytest.mark.parametrize("client", CLIENTS)
def test_a_turn_extends_the_turn_before(client: str) -> None:
    """Where the client's own conversation goes on from an earlier one, so does what we make of it."""
    before: list[dict[str, Any]] = []
    extended = 0
    for request in CLIENTS[client]:
        for earlier in before:
            if request["body"].get("tools") == earlier["body"]["tools"] and goes_on(earlier["body"], request["body"]):
                assert goes_on(prepared(earlier), prepared(request))
                extended += 1
        if "tools" in request["body"]:
            before.append(request)
    assert extended


def goes_on(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Whether the second body is the first with more turns."""
    earlier, later = ([flat(turn) for turn in body["messages"]] for body in (one, two))
    return one.get("system") == two.get("system") and later[: len(earlier)] == earlier


def flat(turn: dict[str, Any]) -> dict[str, Any]:
    """The turn as vLLM renders it: a text is a list of one text, and marks of the cache are no part of it."""
    content = turn["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {**turn, "content": [{k: v for k, v in block.items() if k != "cache_control"} for block in blocks]}


def test_packing_loses_nothing() -> None:
    long = {"role": "user", "content": [{"type": "text", "text": "<system-reminder>\n" + "secret " * 30}]}
    schema = {"type": "object", "properties": {"a": {"description": "what", "enum": ["b"]}}, "required": ["a"]}
    body = {"model": "m", "tools": [{"name": "f", "input_schema": schema}], "messages": [long]}
    call = {"type": "tool_use", "id": "toolu_xyz", "name": "f", "input": {"a": "/home/me"}}
    later = {**body, "messages": [long, {"role": "assistant", "content": [call]}]}
    requests = [{"path": "/v1/messages", "body": blanked(one)} for one in (body, later)]
    packed = json.dumps(pack(requests))
    assert "secret" not in packed and "xyz" not in packed and "/home" not in packed and "what" not in packed
    one, two = (request["body"] for request in unpack(json.loads(packed)))
    assert two["tools"] == one["tools"] and two["messages"][0] == one["messages"][0]
    text = one["messages"][0]["content"][0]["text"]
    assert text.startswith("<system-reminder>\n") and len(text) == len(long["content"][0]["text"])
    assert one["tools"][0]["input_schema"]["properties"]["a"]["enum"] == ["b"]
