"""A deployment whose smoke test found no working tool calls: tools are refused in words, the rest is answered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from bouchet_core.deployments import Phase
from bouchet_core.provenance import SmokeCheck, SmokeTest
from bouchet_proxy.routing.table import Group, Route, build_table

from tests.proxy.contract import CHAT, COUNT, MESSAGES, ask, until
from tests.proxy.running import ALIAS, KEY, MODEL, Ground, deployment, front_in_thread

WHY = "its call stayed text, so the parser 'hermes' does not fit it"
BROKEN = SmokeTest(tools=SmokeCheck(result="failed", message=WHY))
ANTHROPIC_TOOL = {"name": "bash", "input_schema": {"type": "object"}}
OPENAI_TOOL = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}


def post(url: str, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(url + path, json=body, headers={"x-api-key": KEY}, timeout=30)


def test_tools_are_refused_with_the_reason_and_all_else_is_answered(ground: Ground) -> None:
    record = deployment()
    job = record.jobs[0].model_copy(update={"smoke": BROKEN})
    record = ground.store.create(record.model_copy(update={"jobs": (job,)}))
    try:
        with front_in_thread(ground) as door:
            until(lambda: post(door.url, COUNT, ask("x")).status_code == 200)
            anthropic = post(door.url, MESSAGES, {**ask("SAY[hi]"), "tools": [ANTHROPIC_TOOL], "stream": True})
            openai = post(door.url, CHAT, {**ask("SAY[hi]"), "tools": [OPENAI_TOOL]})
            responses = post(door.url, "/v1/responses", {"model": ALIAS, "input": "x", "tools": [OPENAI_TOOL]})
            for answer in (anthropic, openai, responses):
                assert answer.status_code == 400, answer.text
                assert answer.json()["error"]["type"] == "invalid_request_error"
                assert WHY in answer.json()["error"]["message"] and "tool_parser" in answer.json()["error"]["message"]
            assert post(door.url, MESSAGES, ask("SAY[hi]")).status_code == 200
            assert post(door.url, COUNT, {**ask("x"), "tools": [ANTHROPIC_TOOL]}).status_code == 200
            unused = {**ask("SAY[hi]"), "tools": [ANTHROPIC_TOOL], "tool_choice": {"type": "none"}}
            assert post(door.url, MESSAGES, unused).status_code == 200
    finally:
        ground.store.update(record.id, lambda d: d.moved(Phase.ENDED, datetime.now(UTC)))


@pytest.mark.parametrize("result", ["ok", "not_tried"])
def test_only_what_was_seen_to_fail_takes_tools_away(result: str) -> None:
    record = deployment()
    smoke = SmokeTest(tools=SmokeCheck.model_validate({"result": result, "message": "x"}))
    job = record.jobs[0].model_copy(update={"smoke": smoke})
    found = build_table([record.model_copy(update={"jobs": (job,)})], {}).find(ALIAS)
    assert isinstance(found, Route) and found.no_tools == ""


def test_one_without_tools_is_no_replica_of_one_that_has_them() -> None:
    whole, broken = deployment("one"), deployment("two", slot=1)
    job = broken.jobs[0].model_copy(update={"smoke": BROKEN})
    broken = broken.model_copy(update={"jobs": (job,)})
    assert not isinstance(build_table([whole, broken], {}).find(MODEL), Group)
    assert isinstance(build_table([whole, deployment("two", slot=1)], {}).find(MODEL), Group)
