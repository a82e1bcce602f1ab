"""A job ends in the middle of an answer: plain text goes on behind its last token, from another job of the model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from bouchet_core.deployments import Deployment, Ending, Job, Phase
from bouchet_core.keys import serving_key
from bouchet_core.policy import Policy

from tests.fakes.vllm.guarded import GuardedVLLM, serve_guarded
from tests.fakes.vllm.server import FakeVLLM
from tests.proxy.client import CHAT, HTTP, MESSAGES, OWNER, anthropic_text, chat_body, metrics_text, wait_for_status
from tests.proxy.environment import (
    HOLD_S,
    NODE_PORT,
    SERVING_SECRET,
    WINDOW,
    ProxyEnvironment,
    RunningProxy,
    make_deployment,
)
from tests.proxy.stream_checker import check_stream
from tests.waiting import wait_for

MODEL, ID = "goes-on", "org/Goes-On"
WORDS = " ".join(f"word{n}" for n in range(40))
TEXT = f"SAY[{WORDS}] PACE[0.03]"
TOOL = {"name": "bash", "input_schema": {"type": "object"}}
CALL = 'SAY[first the words] CALL[bash {"command": "ls -l /tmp and a few words more"}] PACE[0.1]'
KEPT = Policy(keep="forever")


@dataclass
class Jobs:
    """Jobs of one deployment, each with a guarded server behind its slot, which end when a test says so."""

    proxy: RunningProxy
    environment: ProxyEnvironment
    policy: Policy | None = None
    record: Deployment | None = None
    servers: dict[str, tuple[GuardedVLLM, ExitStack]] = field(default_factory=dict)

    def add(self, slot: int) -> str:
        """Make a job ready, and return its name."""
        name = f"bouchet-on-{len(self.servers) + 1}"
        vllm = FakeVLLM((MODEL, ID), serving_key(SERVING_SECRET, name), WINDOW, NODE_PORT)
        opened = ExitStack()
        server = opened.enter_context(serve_guarded(vllm, self.environment.slot_base_port + slot))
        self.servers[name] = server, opened
        now = datetime.now(UTC)
        fields: dict[str, Any] = {"since": {Phase.READY: now}, "window": WINDOW, "node": "node1", "port": NODE_PORT}
        job = Job(name=name, slot=slot, phase=Phase.READY, proves=True, resumes=1, **fields)
        store = self.environment.store
        if self.record is None:
            policies: dict[str, Any] = {"policy": self.policy} if self.policy else {}
            made = make_deployment(MODEL, ID, jobs=(job,), **policies)
            self.record = store.create(made)
            wait_for_status(self.proxy, 200, MODEL)
        else:
            store.update(self.record.id, lambda d: d.with_job(job, now).settled())
        return name

    def kill(self, name: str, *, is_known: bool = True) -> None:
        """End the server of a job at once. is_known: the worker sees it."""
        self.servers[name][1].close()
        if is_known:
            self.end(name)

    def end(self, name: str) -> None:
        """Let the worker see that the job has ended."""
        self._change(name, phase=Phase.ENDED)

    def be_ready_again(self, name: str, after_s: float) -> None:
        """Let the job be starting for that long."""
        self._change(name, phase=Phase.STARTING)
        threading.Timer(after_s, lambda: self._change(name, phase=Phase.READY)).start()

    def requests(self, name: str) -> list[dict[str, Any]]:
        """Return what its model was asked to generate."""
        asked = self.servers[name][0].vllm.requests
        return [one for one in asked if one["path"] in (MESSAGES, CHAT)]

    def who_serves(self) -> str:
        """Return the job that has been asked and still answers."""
        return next(name for name in reversed(self.servers) if self.requests(name))

    def close(self) -> None:
        """End everything."""
        if self.record is not None:
            self.environment.store.update(
                self.record.id, lambda d: d.ended(Ending.CANCELLED, datetime.now(UTC), "over")
            )
            wait_for_status(self.proxy, 404, MODEL)
        for _, opened in self.servers.values():
            opened.close()

    def _change(self, name: str, **changes: object) -> None:
        assert self.record is not None
        now = datetime.now(UTC)

        def change(old: Deployment) -> Deployment:
            job = next(job for job in old.jobs if job.name == name)
            return old.with_job(job.model_copy(update=changes), now).settled()

        self.environment.store.update(self.record.id, change)


@pytest.fixture
def jobs(proxy: RunningProxy, environment: ProxyEnvironment) -> Iterator[Jobs]:
    made = Jobs(proxy, environment, KEPT)
    try:
        yield made
    finally:
        made.close()


def ask(jobs: Jobs, path: str, text: str, when: bytes, then: Any, **fields: Any) -> bytes:
    """Stream an answer; call `then` once `when` is in it, and return all that came."""
    body = chat_body(text, model=MODEL, stream=True, **fields)
    data, is_done = b"", False
    with HTTP.stream("POST", jobs.proxy.url + path, json=body, headers=OWNER) as response:
        assert response.status_code == 200
        for piece in response.iter_raw():
            data += piece
            if not is_done and when in data:
                is_done = True
                then()
    assert is_done, data
    return data


def chat_text(data: bytes) -> str:
    found = [event.json() for event in check_stream(CHAT, data) if event.data != b"[DONE]"]
    assert len({chunk["id"] for chunk in found}) == 1, "one id for the whole answer"
    return "".join(choice["delta"].get("content") or "" for chunk in found for choice in chunk["choices"])


def test_message_goes_on_from_another_replica_behind_its_last_token(jobs: Jobs) -> None:
    jobs.add(1), jobs.add(2)
    time.sleep(0.7)
    killed: list[str] = []

    def kill() -> None:
        killed.append(jobs.who_serves())
        jobs.kill(killed[0])

    data = ask(jobs, MESSAGES, TEXT, b"word9", kill, system="Be brief.", tools=[TOOL], temperature=0.3)
    events = check_stream(MESSAGES, data)
    assert anthropic_text(events) == WORDS
    assert [e.name for e in events if "block" in e.name and "delta" not in e.name] == [
        "content_block_start",
        "content_block_stop",
    ]
    assert events[-1].name == "message_stop" and events[-2].json()["delta"]["stop_reason"] == "end_turn"
    # a white space that two jobs wrote counts twice
    assert events[-2].json()["usage"]["output_tokens"] - len(WORDS.split()) * 2 in (-1, 0)
    other = next(name for name in jobs.servers if name not in killed)
    (first,), (second,) = jobs.requests(killed[0]), jobs.requests(other)
    assert (first["path"], second["path"]) == (MESSAGES, CHAT)
    body = second["body"]
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    begun = body["messages"][-1]["content"]
    assert WORDS.startswith(begun) and begun.endswith(begun.rstrip()), "without white space at its end"
    assert body["temperature"] == 0.3 and body["tools"][0]["function"]["name"] == "bash"
    assert body["max_tokens"] < 100, "what the client has counts"


def test_chat_goes_on_with_one_id_and_the_usage_of_the_whole(jobs: Jobs) -> None:
    jobs.add(1), jobs.add(2)
    time.sleep(0.7)
    options = {"include_usage": True}
    data = ask(jobs, CHAT, TEXT, b"word9", lambda: jobs.kill(jobs.who_serves()), stream_options=options)
    assert chat_text(data) == WORDS
    usage = [event.json()["usage"] for event in check_stream(CHAT, data) if b'"usage":{' in event.data]
    assert [one["completion_tokens"] - len(WORDS.split()) * 2 in (-1, 0) for one in usage] == [True]


@pytest.mark.parametrize("path", [MESSAGES, CHAT])
@pytest.mark.parametrize(("text", "when"), [(TEXT, b"word9"), (f"{TEXT} SLOW[1]", b": ping")])
def test_comments_of_a_server_are_no_part_of_its_answer(jobs: Jobs, path: str, text: str, when: bytes) -> None:
    jobs.add(1), jobs.add(2)
    for server, _ in jobs.servers.values():
        server.vllm.comment = b": ping\n\n"
    time.sleep(0.7)
    data = ask(jobs, path, text, when, lambda: jobs.kill(jobs.who_serves()))
    if path == CHAT:
        assert chat_text(data) == WORDS and data.count(b'"role":"assistant"') == 1
    else:
        assert anthropic_text(check_stream(MESSAGES, data)) == WORDS


def test_answer_waits_for_the_successor_of_a_kept_model(jobs: Jobs) -> None:
    first = jobs.add(1)

    def kill() -> None:
        jobs.kill(first)
        threading.Timer(1.0, lambda: jobs.add(2)).start()

    data = ask(jobs, MESSAGES, TEXT, b"word9", kill)
    assert anthropic_text(check_stream(MESSAGES, data)) == WORDS


def test_time_of_an_answer_is_no_time_that_it_waited(jobs: Jobs) -> None:
    """It waits for its model, is longer than it may wait, and goes on from the next job nevertheless."""
    first, waiting = jobs.add(1), list[str]()
    jobs.be_ready_again(first, after_s=1.5)
    time.sleep(0.7)

    def kill() -> None:
        waiting.append(metrics_text(jobs.proxy))
        jobs.kill(first)
        threading.Timer(1.0, lambda: jobs.add(2)).start()

    slow = f"SAY[{WORDS}] PACE[{HOLD_S / len(WORDS.split()) * 2}]"
    data = ask(jobs, MESSAGES, slow, b"word30", kill)
    assert b"event: ping" in data.partition(b"word0")[0], "it waited"
    assert anthropic_text(check_stream(MESSAGES, data)) == WORDS
    assert "bouchet_requests_held 0.0" in waiting[0], waiting[0]


def test_answer_goes_on_once_the_end_of_its_job_is_known(jobs: Jobs) -> None:
    """The link seems to be down until the worker sees that the job has ended."""
    jobs.add(1), jobs.add(2)
    time.sleep(0.7)

    def kill() -> None:
        busy = jobs.who_serves()
        jobs.kill(busy, is_known=False)
        threading.Timer(1.5, lambda: jobs.end(busy)).start()

    data = ask(jobs, MESSAGES, TEXT, b"word9", kill)
    assert anthropic_text(check_stream(MESSAGES, data)) == WORDS


def test_answer_goes_on_twice(jobs: Jobs) -> None:
    jobs.add(1), jobs.add(2), jobs.add(3)
    time.sleep(0.7)

    def both() -> None:
        jobs.kill(jobs.who_serves())
        threading.Thread(target=second).start()

    def second() -> None:
        wait_for(lambda: sum(bool(jobs.requests(name)) for name in jobs.servers) == 2)
        time.sleep(0.2)
        busy = next(n for n in jobs.servers if jobs.requests(n) and jobs.requests(n)[-1]["path"] == CHAT)
        jobs.kill(busy)

    data = ask(jobs, MESSAGES, TEXT, b"word9", both)
    assert anthropic_text(check_stream(MESSAGES, data)) == WORDS
    assert sum(len(jobs.requests(name)) for name in jobs.servers) == 3


@pytest.mark.parametrize(("text", "when"), [(CALL, b"input_json_delta")])
def test_tool_call_ends_in_an_error_that_clients_retry(jobs: Jobs, text: str, when: bytes) -> None:
    jobs.add(1), jobs.add(2)
    time.sleep(0.7)
    data = ask(jobs, MESSAGES, text, when, lambda: jobs.kill(jobs.who_serves()), tools=[TOOL])
    last = check_stream(MESSAGES, data)[-1].json()
    assert (last["type"], last["error"]["type"]) == ("error", "overloaded_error")
    assert sum(len(jobs.requests(name)) for name in jobs.servers) == 1


def test_text_goes_on_into_a_tool_call(jobs: Jobs) -> None:
    jobs.add(1), jobs.add(2)
    time.sleep(0.7)
    data = ask(jobs, MESSAGES, CALL, b"the", lambda: jobs.kill(jobs.who_serves()), tools=[TOOL])
    events = [event.json() for event in check_stream(MESSAGES, data)]
    starts = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert starts == ["text", "tool_use"]
    arguments = "".join(event["delta"].get("partial_json", "") for event in events if "delta" in event)
    assert arguments == '{"command": "ls -l /tmp and a few words more"}'
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize("fields", [{"tool_choice": {"type": "any"}}, {"output_format": {"type": "json_schema"}}])
def test_answer_that_a_grammar_holds_is_not_continued(jobs: Jobs, fields: dict[str, Any]) -> None:
    jobs.add(1), jobs.add(2)
    time.sleep(0.7)
    data = ask(jobs, MESSAGES, TEXT, b"word9", lambda: jobs.kill(jobs.who_serves()), tools=[TOOL], **fields)
    assert check_stream(MESSAGES, data)[-1].name == "error"


def test_answer_of_a_model_that_does_not_come_back_ends_in_an_error(
    proxy: RunningProxy, environment: ProxyEnvironment
) -> None:
    jobs = Jobs(proxy, environment)
    try:
        only = jobs.add(1)
        began = time.monotonic()
        data = ask(jobs, MESSAGES, TEXT, b"word9", lambda: jobs.kill(only))
        last = check_stream(MESSAGES, data)[-1].json()
        assert last["error"]["type"] == "overloaded_error" and "lost" in last["error"]["message"]
        assert time.monotonic() - began < 5, "nothing is waited for"
    finally:
        jobs.close()


def test_continued_answers_are_counted(jobs: Jobs) -> None:
    jobs.add(1), jobs.add(2)
    time.sleep(0.7)
    ask(jobs, MESSAGES, TEXT, b"word9", lambda: jobs.kill(jobs.who_serves()))
    assert 'bouchet_continued_answers_total{model="org/Goes-On"}' in metrics_text(jobs.proxy)
    assert jobs.record is not None
    identity, store = jobs.record.id, jobs.environment.store

    def found() -> int:
        return sum(int(one["continued"]) for one in store.usage.last(1000) if one["deployment"] == identity)

    wait_for(lambda: found() == 1, 20)
