"""Responses that vLLM aborts when its job ends are reported, although vLLM calls them complete."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from bouchet_core.keys import serving_key
from bouchet_proxy.streams.sse import Event

from tests.conftest import free_port
from tests.fakes.cutting_relay import CuttingRelay
from tests.fakes.vllm.guarded import serve_guarded
from tests.fakes.vllm.server import FakeVLLM
from tests.proxy.client import HTTP, OWNER, RESPONSES, post, wait_for_status
from tests.proxy.environment import NODE_PORT, SERVING_SECRET, WINDOW, ProxyEnvironment, RunningProxy, make_deployment
from tests.proxy.stream_checker import check_stream
from tests.waiting import wait_for

SLOT, JOB, MODEL, TIMEOUT_S = 2, "bouchet-ending-1", "ending", 100
WORDS = " ".join(["word"] * 30)


@dataclass
class EndingJob:
    """A guarded model whose job a test can end."""

    proxy: RunningProxy
    vllm: FakeVLLM
    drain_file: Path

    def end(self, seconds_ago: float) -> None:
        """Drain, as from that long ago on."""
        self.drain_file.touch()
        moment = time.time() - seconds_ago
        os.utime(self.drain_file, (moment, moment))

    def stream(self, seconds_ago: float | None, wait: str = "PACE[0.05]") -> list[Event]:
        """Return the events of a response within which the job begins to end."""
        body = {"model": MODEL, "input": f"SAY[{WORDS}] {wait}", "stream": True}
        with HTTP.stream("POST", self.proxy.url + RESPONSES, json=body, headers=OWNER) as answer:
            pieces = answer.iter_raw()
            data = next(pieces)
            while b"output_text.delta" not in data:
                data += next(pieces)
            if seconds_ago is not None:
                self.end(seconds_ago)
            data += b"".join(pieces)
        return check_stream(RESPONSES, data)


@pytest.fixture
def job(
    proxy: RunningProxy, environment: ProxyEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EndingJob]:
    """Put a guarded model behind slot 2."""
    arguments = ["vllm", "serve", "/m", "--shutdown-timeout", "1", "--shutdown-timeout", str(TIMEOUT_S)]
    monkeypatch.setattr(sys, "argv", arguments)
    drain_file, port = tmp_path / "drain", free_port()
    vllm = FakeVLLM((MODEL, "org/Ending"), serving_key(SERVING_SECRET, JOB), WINDOW, NODE_PORT)
    record = make_deployment(MODEL, "org/Ending", slot=SLOT)
    named = record.jobs[0].model_copy(update={"name": JOB, "resumes": 1})
    with (
        serve_guarded(vllm, port, BOUCHET_DRAIN_FILE=str(drain_file)),
        CuttingRelay(environment.slot_base_port + SLOT, port),
    ):
        created = environment.store.create(record.model_copy(update={"jobs": (named,)}))
        wait_for_status(proxy, 200, MODEL)
        yield EndingJob(proxy, vllm, drain_file)
        environment.store.update(created.id, lambda d: d.moved(type(d.phase).ENDED, d.created_at))
        wait_for_status(proxy, 404, MODEL)


def test_response_that_vllm_aborts_fails(job: EndingJob) -> None:
    last = job.stream(TIMEOUT_S + 1)[-1].json()
    assert last["type"] == "response.failed" and last["response"]["status"] == "failed"
    # a code that Codex asks again for
    assert last["response"]["error"]["code"] not in ("invalid_prompt", "context_length_exceeded")
    assert "ending" in last["response"]["error"]["message"]


@pytest.mark.parametrize("seconds_ago", [None, 0.0])
def test_response_that_vllm_finishes_is_complete(job: EndingJob, seconds_ago: float | None) -> None:
    events = job.stream(seconds_ago)
    assert events[-1].json()["type"] == "response.completed"
    assert "".join(e.json()["delta"] for e in events if e.name == "response.output_text.delta") == WORDS


def test_whole_response_that_vllm_aborts_is_an_error(job: EndingJob) -> None:
    body = {"model": MODEL, "input": "SAY[half] SLOW[2]"}
    whole = post(job.proxy, RESPONSES, body)
    assert whole.status_code == 200 and "half" in whole.text, whole.text
    answers, asked = list[httpx.Response](), len(job.vllm.requests)
    thread = threading.Thread(target=lambda: answers.append(post(job.proxy, RESPONSES, body)))
    thread.start()
    wait_for(lambda: len(job.vllm.requests) > asked)
    job.end(TIMEOUT_S + 1)
    thread.join()
    assert answers[0].status_code >= 500 and "error" in answers[0].json(), answers[0].text
    assert "half" not in answers[0].text
