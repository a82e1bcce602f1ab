"""A link that is cut, between a proxy and the job's real guard: no client notices, and nothing is served twice."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from bouchet_core.keys import serving_key
from bouchet_proxy.http import pool

from tests.conftest import free_port
from tests.fakes.cutting_relay import CuttingRelay
from tests.fakes.vllm.guarded import GuardedVLLM, serve_guarded
from tests.fakes.vllm.server import FakeVLLM
from tests.proxy.client import (
    CHAT,
    COMPLETIONS,
    HTTP,
    MESSAGES,
    OWNER,
    RESPONSES,
    anthropic_text,
    chat_body,
    metrics_text,
    post,
    wait_for_status,
    without_pings,
)
from tests.proxy.environment import NODE_PORT, SERVING_SECRET, WINDOW, ProxyEnvironment, RunningProxy, make_deployment
from tests.proxy.stream_checker import check_stream
from tests.waiting import wait_for

SLOT, JOB, MODEL = 1, "bouchet-cut-1", "cut"
ANSWER = "SAY[the answer is quite short]"
THOUGHT = 'THINK[hm let me see] SAY[yes] CALL[bash {"command": "ls -l /tmp"}]'
IDS = re.compile(rb"chatcmpl-[a-z]+-\d+")
NEVER = 1 << 40
# a stream of seconds
LONG = f"SAY[{'word ' * 40}] PACE[0.05]"
REQUESTS = {
    "messages": (MESSAGES, chat_body(THOUGHT, model=MODEL, stream=True)),
    "chat": (CHAT, chat_body(ANSWER, model=MODEL, stream=True, stream_options={"include_usage": True})),
    "completions": (COMPLETIONS, {"model": MODEL, "prompt": ANSWER, "max_tokens": 50, "stream": True}),
    "responses": (RESPONSES, {"model": MODEL, "input": THOUGHT, "stream": True}),
    "whole message": (MESSAGES, chat_body(THOUGHT, model=MODEL)),
    "whole chat": (CHAT, chat_body(THOUGHT, model=MODEL)),
}


@dataclass
class CutLink:
    """The proxy, the relay that cuts, and the guarded server behind it."""

    proxy: RunningProxy
    relay: CuttingRelay
    server: GuardedVLLM

    def ask(self, path: str, body: dict[str, Any]) -> bytes:
        """Return the answer, without what is different in each."""
        response = post(self.proxy, path, body)
        assert response.status_code == 200, response.text
        return IDS.sub(b"ID", response.content)

    def served(self) -> int:
        """Return how many requests the model has had."""
        return len(self.server.vllm.requests)


@pytest.fixture(scope="module")
def link(proxy: RunningProxy, environment: ProxyEnvironment) -> Iterator[CutLink]:
    """Put a guarded model behind slot 1, over a link that can be cut."""
    vllm = FakeVLLM((MODEL, "org/Cut"), serving_key(SERVING_SECRET, JOB), WINDOW, NODE_PORT)
    port = free_port()
    record = make_deployment(MODEL, "org/Cut", slot=SLOT)
    job = record.jobs[0].model_copy(update={"name": JOB, "resumes": 1})
    with serve_guarded(vllm, port) as server, CuttingRelay(environment.slot_base_port + SLOT, port) as relay:
        created = environment.store.create(record.model_copy(update={"jobs": (job,)}))
        wait_for_status(proxy, 200, MODEL)
        yield CutLink(proxy, relay, server)
        environment.store.update(created.id, lambda d: d.moved(type(d.phase).ENDED, d.created_at))
        wait_for_status(proxy, 404, MODEL)


def cut_everywhere(link: CutLink, name: str, step: int, *, half: bool = False) -> None:
    """Ask again and again, with a cut after every `step` bytes; each answer is the uncut one, and served once."""
    path, body = REQUESTS[name]
    before = link.relay.passed
    whole = link.ask(path, body)
    counts = range(1, link.relay.passed - before, step)
    cuts = link.relay.cuts
    for count in counts:
        served = link.served()
        link.relay.cut_after(count, half=half)
        assert link.ask(path, body) == whole, count
        assert link.served() == served + 1, count
    # the last ones may lie beyond the end of an answer that needed no new connection
    assert link.relay.cuts - cuts >= len(counts) - 2
    link.relay.cut_after(NEVER)


@pytest.mark.parametrize("name", REQUESTS)
def test_answer_with_a_cut_is_the_uncut_one(link: CutLink, name: str) -> None:
    cut_everywhere(link, name, step=211)


@pytest.mark.parametrize("name", REQUESTS)
def test_answer_over_a_link_that_froze_is_the_uncut_one(link: CutLink, name: str) -> None:
    cut_everywhere(link, name, step=307, half=True)


def test_answer_without_a_cut_is_not_aborted(link: CutLink) -> None:
    for path, body in REQUESTS.values():
        aborted = dict(link.server.answers._aborted)
        link.ask(path, body)
        time.sleep(0.05)
        assert link.server.answers._aborted == aborted
        assert len(link.server.answers._sent) == len(link.server.answers._answers), "all were sent to their end"


@pytest.mark.parametrize("name", REQUESTS)
def test_request_over_a_link_that_is_silent_for_long_is_answered(
    link: CutLink, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections are accepted and nothing passes, for longer than a server may take to prove who it is."""
    monkeypatch.setattr(pool, "PROOF_TIMEOUT_S", 0.4)
    path, body = REQUESTS[name]
    uncut = link.ask(path, body)
    link.relay.cut(down=True)
    threading.Timer(1.5, link.relay.restore).start()
    assert without_pings(link.ask(path, body)) == uncut


def test_whole_request_waits_for_its_first_connection(link: CutLink) -> None:
    path, body = REQUESTS["whole message"]
    uncut = link.ask(path, body)
    # no pooled connection is left, and the proof of the next one is cut
    link.relay.cut()
    link.relay.cut_after(20, down_s=0.5)
    assert link.ask(path, body) == uncut


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bouchet_proxy.backends.direct.PING_S", 0.2)


def stream(link: CutLink, text: str, path: str = MESSAGES) -> Any:
    return HTTP.stream("POST", link.proxy.url + path, json=chat_body(text, model=MODEL, stream=True), headers=OWNER)


def text_of(data: bytes) -> str:
    return anthropic_text(check_stream(MESSAGES, data))


def read_content(pieces: Iterator[bytes]) -> bytes:
    """Return what a stream has sent when there is text in it."""
    data = next(pieces)
    while not (b"text_delta" in data or b'"content":"word' in data):
        data += next(pieces)
    return data


def test_client_is_held_with_pings_while_the_link_is_down(link: CutLink, quick_pings: None) -> None:
    with stream(link, LONG) as response:
        pieces = response.iter_raw()
        data = read_content(pieces)
        link.relay.cut(down=True)
        timer = threading.Timer(1.2, link.relay.restore)
        timer.start()
        data += b"".join(pieces)
        timer.join()
    assert b"event: ping" in data
    assert b'"text_delta","text":""' in data, "Claude Code counts no pings"
    assert text_of(data) == LONG[4:-12]


def test_request_is_held_with_pings_before_its_answer_begins(link: CutLink, quick_pings: None) -> None:
    served = link.served()

    def cut() -> None:
        """Cut the link when the model has the request, and before it says a word."""
        wait_for(lambda: link.served() > served)
        link.relay.cut(down=True)
        time.sleep(1)
        link.relay.restore()

    cutter = threading.Thread(target=cut)
    cutter.start()
    with stream(link, "SAY[late] HEAD[3]") as response:
        data = b"".join(response.iter_raw())
    cutter.join()
    assert data.startswith(b"event: ping") and text_of(data) == "late"
    assert link.served() == served + 1, "it was asked for by its id"


@pytest.mark.parametrize("path", [MESSAGES, CHAT])
def test_hang_up_ends_the_request_at_once(link: CutLink, path: str) -> None:
    before = link.server.vllm.aborted
    with stream(link, LONG, path) as response:
        pieces = response.iter_raw()
        read_content(pieces)
    # not only when the guard would forget it
    wait_for(lambda: link.server.vllm.aborted == before + 1)


def test_hang_up_while_the_link_is_down_ends_the_request_afterwards(link: CutLink) -> None:
    before = link.server.vllm.aborted
    with stream(link, LONG) as response:
        pieces = response.iter_raw()
        read_content(pieces)
        link.relay.cut(down=True)
        time.sleep(0.3)
    time.sleep(0.3)
    assert link.server.vllm.aborted == before, "the guard keeps what has no reader"
    link.relay.restore()
    wait_for(lambda: link.server.vllm.aborted == before + 1)


def forget(link: CutLink) -> None:
    """Make the guard forget all answers, as a server does that was restarted."""
    for name in list(link.server.answers._answers):
        link.server.loop.call_soon_threadsafe(link.server.answers.abort, name)
    wait_for(lambda: not link.server.answers._answers)


def test_lost_answer_with_content_goes_on_behind_it(link: CutLink) -> None:
    """The server lives, and has the answer no more: as after a restart of vLLM within its job."""
    with stream(link, LONG) as response:
        pieces = response.iter_raw()
        data = read_content(pieces)
        link.relay.cut(down=True)
        forget(link)
        link.relay.restore()
        data += b"".join(pieces)
    assert text_of(data).split() == ["word"] * 40
    assert link.server.vllm.last_body["continue_final_message"] is True


def test_lost_tool_call_ends_in_an_error_of_the_dialect(link: CutLink) -> None:
    call = f'CALL[bash {{"command": "{"ls " * 40}"}}] PACE[0.05]'
    with stream(link, call) as response:
        pieces = response.iter_raw()
        data = next(pieces)
        while b"input_json_delta" not in data:
            data += next(pieces)
        link.relay.cut(down=True)
        forget(link)
        link.relay.restore()
        data += b"".join(pieces)
    last = check_stream(MESSAGES, data)[-1].json()
    assert (last["type"], last["error"]["type"]) == ("error", "overloaded_error")


@pytest.mark.parametrize("wait", ["HEAD[0.8]", "SLOW[0.8]", "FIRST[0.8]"])
def test_lost_answer_without_content_is_asked_for_again(link: CutLink, wait: str) -> None:
    served, result = link.served(), list[bytes]()
    body = chat_body(f"SAY[again] {wait}", model=MODEL, stream=True)
    thread = threading.Thread(target=lambda: result.append(post(link.proxy, MESSAGES, body).content))
    thread.start()
    wait_for(lambda: link.served() == served + 1)
    time.sleep(0.3)
    link.relay.cut(down=True)
    forget(link)
    link.relay.restore()
    thread.join()
    assert text_of(result[0]) == "again" and result[0].count(b"event: message_start") == 1
    assert link.served() == served + 2


def test_answer_of_an_ended_job_is_not_waited_for(link: CutLink) -> None:
    store = link.proxy.environment.store
    with stream(link, LONG) as response:
        pieces = response.iter_raw()
        data = read_content(pieces)
        link.relay.cut(down=True)
        record = next(one for one in store.live() if one.alias == MODEL)
        ended = record.jobs[0].model_copy(update={"port": NODE_PORT + 1})
        moved = store.update(record.id, lambda d: d.model_copy(update={"jobs": (ended,), "version": d.version + 1}))
        threading.Timer(1.0, link.relay.restore).start()
        data += b"".join(pieces)
    assert check_stream(MESSAGES, data)[-1].name == "error"
    store.update(moved.id, lambda d: d.model_copy(update={"jobs": record.jobs, "version": d.version + 1}))
    wait_for_status(link.proxy, 200, MODEL)


def test_requests_that_wait_for_the_link_are_counted_and_reported(link: CutLink) -> None:
    bodies = [chat_body(f"SAY[{text}]", model=MODEL, stream=True) for text in ("one", "two")]
    with stream(link, LONG) as response:
        pieces = response.iter_raw()
        read_content(pieces)
        link.relay.cut(down=True)
        wait_for(lambda: "bouchet_requests_cut 1.0" in metrics_text(link.proxy))
        waiting = [threading.Thread(target=post, args=(link.proxy, MESSAGES, body)) for body in bodies]
        for thread in waiting:
            thread.start()
        wait_for(lambda: "bouchet_requests_cut 3.0" in metrics_text(link.proxy))
        wait_for(lambda: reported_cut(link) == 3)
        link.relay.restore()
        for thread in waiting:
            thread.join()
        wait_for(lambda: "bouchet_requests_cut 0.0" in metrics_text(link.proxy))
        wait_for(lambda: reported_cut(link) == 0)


def reported_cut(link: CutLink) -> int:
    """Return how many requests the proxy says wait for the link."""
    report = link.proxy.environment.store.load.current()
    return report.cut if report is not None else -1


def test_answer_of_older_scripts_goes_on_behind_its_text(link: CutLink) -> None:
    """A job that cannot resume gets no id; it is asked to go on with its own answer."""
    store = link.proxy.environment.store
    record = next(one for one in store.live() if one.alias == MODEL)
    older = record.jobs[0].model_copy(update={"resumes": 0})
    store.update(record.id, lambda d: d.model_copy(update={"jobs": (older,), "version": d.version + 1}))
    time.sleep(1)
    with stream(link, LONG) as response:
        pieces = response.iter_raw()
        data = read_content(pieces)
        link.relay.cut()
        data += b"".join(pieces)
    assert "x-bouchet-stream" not in {name.lower() for name in link.server.vllm.requests[-1]["headers"]}
    assert text_of(data).split() == ["word"] * 40
    store.update(record.id, lambda d: d.model_copy(update={"jobs": record.jobs, "version": d.version + 1}))
