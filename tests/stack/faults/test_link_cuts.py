"""The link is cut while the real vLLM answers: no client notices, and what a client leaves ends on the GPU."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.stack.clients.claude_code import ClaudeCode, call, exported
from tests.stack.conftest import SCRIPTED
from tests.stack.harness import Stack
from tests.stack.job_faults import Stream
from tests.stack.link_faults import LONG, check_answers_with_a_cut, kill_sshd, pause, paused, restart, text_of, unplug
from tests.stack.ssh.own_tunnel import PASSCODE
from tests.waiting import wait_for

TEXT = " ".join(["word"] * 400)
RUNNING = "vllm:num_requests_running{"
CLAUDE_PAUSE_S = 8.0
# an answer that takes vLLM longer than its client's end takes to get there: 60,000 tokens
ENDLESS, ENDLESS_TOKENS, GONE_S = "COUNT[15000]", 60_000, 20.0


@pytest.mark.parametrize(
    "fault",
    [kill_sshd, *(pytest.param(fault, marks=pytest.mark.long) for fault in (pause, unplug, restart))],
)
def test_answer_with_a_cut_is_whole(stack: Stack, scripted: dict[str, Any], fault: Callable[[Stack], None]) -> None:
    check_answers_with_a_cut(stack, SCRIPTED, fault)


@contextmanager
def second_factor(stack: Stack) -> Iterator[None]:
    """Have the login node ask the gateway's user for Duo at its next login."""
    ask_for_it(stack, "guarded,researcher")
    try:
        yield
    finally:
        ask_for_it(stack, "guarded")


def ask_for_it(stack: Stack, users: str) -> None:
    edit = ["sed", "-i", f"s/^Match User .*/Match User {users}/", "/etc/ssh/sshd_config.d/10-demo.conf"]
    assert stack.on("demo-login", edit).status == 0
    assert stack.on("demo-login", ["pkill", "-HUP", "-o", "-x", "sshd"]).status == 0


def test_answer_waits_for_a_second_factor(stack: Stack, scripted: dict[str, Any]) -> None:
    """The login asks again in the middle of answers: status says how many wait, and no answer is lost."""
    with second_factor(stack), stack.api() as api:
        streams = [Stream(stack, SCRIPTED, LONG).under_way() for _ in range(2)]
        kill_sshd(stack)
        wait_for(lambda: api.get("/v1/tunnel").json()["prompt"] is not None, 30)
        late = [Stream(stack, SCRIPTED, "SAY[late]") for _ in range(2)]

        def all_wait() -> int:
            """Return how many wait, if all do that have no whole answer: a fast model has the first ones done."""
            count = sum(one.is_open for one in (*streams, *late))
            return count if api.get("/v1/tunnel").json()["waiting_requests"] == count else 0

        waiting = wait_for(all_wait, 30)
        assert waiting >= len(late)
        shown, doctor = stack.bouchet("status"), api.get("/v1/doctor").text
        assert "needs your login, run `bouchet tunnel`" in shown.stdout, shown.output
        assert f"{waiting} requests wait for it" in shown.stdout and f"{waiting} requests wait" in doctor
        prompt = api.get("/v1/tunnel").json()["prompt"]
        answer = api.post("/v1/tunnel/answer", json={"prompt_id": prompt["id"], "responses": [PASSCODE]})
        assert answer.status_code == 202
        assert {one.last(timeout_s=120) for one in (*streams, *late)} == {"message_stop"}
        wait_for(lambda: api.get("/v1/tunnel").json()["waiting_requests"] == 0, 30)
    texts = {text_of(one.body) for one in streams}
    uncut = Stream(stack, SCRIPTED, LONG)
    assert uncut.last(timeout_s=120) == "message_stop" and texts == {text_of(uncut.body)}


def running(stack: Stack) -> int:
    """Return how many requests vLLM works on, as it counts itself."""
    with stack.proxy() as proxy:
        text = proxy.get(f"/passthrough/{SCRIPTED}/metrics").text
    return int(sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(RUNNING)))


def begin(stack: Stack) -> Callable[[], None]:
    """Begin a long answer, and return how to hang up."""
    body = {"model": SCRIPTED, "max_tokens": ENDLESS_TOKENS, "stream": True}
    client = stack.proxy()
    request = client.build_request("POST", "/v1/messages", json={**body, "messages": [user(ENDLESS)]})
    response = client.send(request, stream=True)
    # kept to the end: an iterator that is dropped hangs up
    pieces = response.iter_raw()
    next(pieces)
    assert response.status_code == 200

    def hang_up(pieces: Iterator[bytes] = pieces) -> None:
        response.close()
        client.close()

    return hang_up


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_hang_up_ends_the_request_on_the_gpu(stack: Stack, scripted: dict[str, Any]) -> None:
    wait_for(lambda: running(stack) == 0)
    hang_up = begin(stack)
    wait_for(lambda: running(stack) == 1)
    hang_up()
    wait_for(lambda: running(stack) == 0, GONE_S, pause_s=0.05)


def test_hang_up_without_link_ends_the_request_after_it(stack: Stack, scripted: dict[str, Any]) -> None:
    wait_for(lambda: running(stack) == 0)
    hang_up = begin(stack)
    wait_for(lambda: running(stack) == 1)
    with paused(stack):
        hang_up()
        time.sleep(1)
    wait_for(lambda: running(stack) == 0, GONE_S, pause_s=0.05)


@pytest.mark.long
def test_claude_code_shows_no_error_over_a_paused_link(stack: Stack, scripted: dict[str, Any], tmp_path: Path) -> None:
    """A turn with a tool, then a long answer: the link pauses during each."""
    claude, reports = ClaudeCode(tmp_path, exported(stack, SCRIPTED)), list[Any]()
    target = claude.work / "hello.txt"
    prompts = [LONG, call("Write", file_path=str(target), content=TEXT)]
    for prompt in prompts:
        thread = threading.Thread(target=lambda text=prompt: reports.append(claude.run(text)))
        thread.start()
        with stack.proxy() as proxy:
            wait_for(lambda: "bouchet_streams_open 0.0" not in proxy.get("/metrics").text, 60, pause_s=0.02)
        with paused(stack):
            time.sleep(CLAUDE_PAUSE_S)
        thread.join()
    errors = [line for report in reports for line in report.lines if "API Error" in json.dumps(line)]
    assert not errors and [report.status for report in reports] == [0, 0], (errors, reports)
    assert target.read_text() == TEXT
