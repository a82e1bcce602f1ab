"""The smoke test against a small real server: what is right passes, what is wrong is named, nothing is guessed."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from bouchet_core.deployments import Job, Phase, Traits
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.keys import serving_key
from bouchet_core.provenance import SmokeCheck, SmokeTest
from bouchet_worker.context import WorkerContext
from bouchet_worker.reconcile import smoke_test as smoking
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.reconcile.observe import Observer
from bouchet_worker.reconcile.smoke_runner import SmokeTestRunner, expected_model, start_thread
from bouchet_worker.reconcile.smoke_test import ExpectedModel, ServerGoneError, run_smoke_test

from tests.fakes.slurm_gateway import FakeSlurm, serve_http
from tests.fakes.vllm.smoke_server import PROMPT_TOKENS, SmokeTestVLLM, smoke_test_vllm
from tests.worker.scenario import SECRET, Clock, Slot0, WorkerScenario, requested, write_connection

PROMISE = ExpectedModel("bouchet-m", 4096, "off", "hermes", "qwen3")


@contextmanager
def served(**deviations: object) -> Iterator[tuple[httpx.Client, type[SmokeTestVLLM]]]:
    server = smoke_test_vllm(**deviations)
    with serve_http(server) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        yield http, server


def smoked(promise: ExpectedModel = PROMISE, *, there: bool = True, **deviations: object) -> SmokeTest:
    with served(**deviations) as (http, _):
        return run_smoke_test(http, promise, lambda: there)


def test_a_model_as_the_catalog_says_passes_everything() -> None:
    smoke = smoked()
    checks = {name: value.result for name, value in smoke if isinstance(value, SmokeCheck)}
    assert checks == dict.fromkeys(("chat", "stream", "tools", "count", "window", "thinking"), "ok")
    assert smoke.summary == "" and smoke.without_tools == ""


def test_every_question_is_small_and_no_switch_is_sent() -> None:
    with served(call="forced") as (http, server):
        run_smoke_test(http, PROMISE, lambda: True)
    bodies = [body for path, body in server.received if path != "/tokenize"]
    assert len(bodies) == 4 and all(body["max_tokens"] <= 256 for body in bodies)
    assert not any("chat_template_kwargs" in body or "thinking" in body for body in bodies)


def test_a_model_that_stumbles_once_keeps_its_tools() -> None:
    smoke = smoked(call="unsteady")
    assert smoke.tools.result == "ok" and smoke.without_tools == ""


@pytest.mark.parametrize(
    ("deviations", "name", "words"),
    [
        ({"chat_status": 400}, "chat", "400: no chat template is defined"),
        ({"stream": "early"}, "stream", "ends after 2 events, before its message_stop"),
        ({"stream": "error"}, "stream", "EngineDeadError"),
        ({"call": "text"}, "tools", "its call stayed text, so the parser 'hermes' does not fit it: <tool_call>"),
        ({"call": "prose"}, "tools", "even a forced call did not come as one"),
        ({"call": "broken"}, "tools", "its call came as report_status("),
        ({"counted": 4 * PROMPT_TOKENS}, "count", "counts 84 tokens of a prompt for which 21 were charged"),
        ({"window": 2048}, "window", "serves 2048 tokens, asked for were 4096"),
        ({"thoughts": "text"}, "thinking", "thinks unasked although"),
        ({"thoughts": "reasoning"}, "thinking", "thinks unasked although"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_else(deviations: dict[str, object], name: str, words: str) -> None:
    smoke = smoked(**deviations)
    wrong = [key for key, value in smoke if isinstance(value, SmokeCheck) and value.result == "failed"]
    assert wrong == [name]
    assert words in getattr(smoke, name).message and words in smoke.summary


def test_a_model_that_talks_instead_of_calling_passes_with_a_forced_call() -> None:
    assert "forced" in smoked(call="forced").tools.message


@pytest.mark.parametrize("call", ["long", "refused"])
def test_a_call_that_could_not_be_tried_takes_no_tools_away(call: str) -> None:
    smoke = smoked(call=call)
    assert smoke.tools.result == "not_tried" and smoke.tools.message and smoke.summary == ""


def test_a_catalog_without_a_parser_or_thoughts_promises_nothing() -> None:
    smoke = smoked(dataclasses.replace(PROMISE, tool_parser=None, thinking="none"), call="prose", thoughts="text")
    assert (smoke.tools.result, smoke.thinking.result) == ("not_tried", "not_tried") and smoke.summary == ""


@pytest.mark.parametrize(("thoughts", "result"), [("reasoning", "ok"), ("text", "failed"), ("", "not_tried")])
def test_a_model_that_always_thinks_has_its_thoughts_parted_from_the_text(thoughts: str, result: str) -> None:
    assert smoked(dataclasses.replace(PROMISE, thinking="always"), thoughts=thoughts).thinking.result == result


def test_a_slow_answer_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoking, "REQUEST_TIMEOUT_S", 0.3)
    smoke = smoked(stream="slow")
    assert smoke.stream.result == "not_tried" and "no answer within" in smoke.stream.message
    monkeypatch.setattr(smoking, "TEST_TIMEOUT_S", 0.0)
    smoke = smoked()
    assert {value.result for _, value in smoke if isinstance(value, SmokeCheck)} == {"not_tried"}


def test_a_lost_way_says_nothing_of_the_model() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with httpx.Client(base_url=url) as http, pytest.raises(ServerGoneError):
            run_smoke_test(http, PROMISE, lambda: False)
        with httpx.Client(base_url=url) as http:
            assert run_smoke_test(http, PROMISE, lambda: True).chat.result == "failed"


def test_the_window_asked_for_is_the_command_lines(clock: Clock) -> None:
    record = requested("aa", clock(), max_len=1024).model_copy(update={"traits": Traits(tool_parser="hermes")})
    with_job = record.with_job(job_of(("vllm", "serve", "m", "--max-model-len", "9", "--max-model-len", "7")), clock())
    assert with_job.job is not None
    promise = expected_model(with_job, with_job.job)
    assert (promise.window, promise.name, promise.tool_parser) == (7, "bouchet-aa", "hermes")
    assert expected_model(record, job_of(())).window is None


def job_of(command: tuple[str, ...]) -> Job:
    return Job(name="bouchet-aa-1", slot=0, command=command)


# in the loop


class SmokeStage(WorkerScenario):
    """A loop that makes smoke tests of the odd server behind its first slot, and a job of its that has just started."""

    def __init__(
        self,
        context: WorkerContext,
        gateway: GatewayClient,
        port: int,
        server: type[SmokeTestVLLM],
        slurm: FakeSlurm,
        clock: Clock,
        start: Callable[[Callable[[], None]], None],
    ) -> None:
        super().__init__(context, gateway, Slot0(port, server), slurm, clock)  # type: ignore[arg-type]
        self.server = server
        self.smokes = SmokeTestRunner(self.probe, start)
        observer = Observer(gateway, context.paths, self.probe, self.smokes)
        self.loop = ReconcileLoop(context, observer, self._enqueue, smoke_tests=self.smokes)
        self.job_id = self.launch()
        job = self.get().job
        assert job is not None
        server.key = serving_key(SECRET, job.name)
        parsed = {"traits": Traits(tool_parser="hermes")}
        context.store.update("aa", lambda d: d.moved(d.phase, clock()).model_copy(update=parsed))
        slurm.start(self.job_id)
        write_connection(slurm, self.job_id)


Begin = Callable[..., SmokeStage]


@pytest.fixture
def begin(context: WorkerContext, gateway: GatewayClient, slurm: FakeSlurm, clock: Clock) -> Iterator[Begin]:
    with ExitStack() as opened:

        def make(start: Callable[[Callable[[], None]], None] = start_thread, **deviations: object) -> SmokeStage:
            server = smoke_test_vllm(**deviations)
            stage = SmokeStage(context, gateway, opened.enter_context(serve_http(server)), server, slurm, clock, start)
            opened.callback(stage.probe.close)
            return stage

        yield make


def at_once(work: Callable[[], None]) -> None:
    work()


def test_ready_and_its_smoke_test_appear_together(begin: Begin) -> None:
    stage = begin(at_once)
    stage.step(2)
    record = stage.get()
    assert record.phase is Phase.READY and record.reason == "" and record.job is not None
    assert record.job.smoke is not None and record.job.smoke.tools.result == "ok"
    version = record.version
    stage.step(3)
    assert stage.get().version == version, "done once a start"


def test_a_parser_that_does_not_fit_is_ready_without_tools_and_says_so_in_record_and_event(begin: Begin) -> None:
    stage = begin(at_once, call="text")
    stage.step(2)
    record = stage.get()
    assert record.phase is Phase.READY and record.reason.startswith("ready without tools: its call stayed text")
    last = stage.context.store.events("0-0")[-1]
    assert (last.phase, last.reason) == (Phase.READY, record.reason)
    stage.step(2)
    assert stage.get().reason == record.reason, "it stays there"


def test_a_slow_model_is_waited_for_a_moment_and_the_loop_goes_on_meanwhile(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    gate = threading.Event()
    stage = begin(gate=gate)
    stage.step(2)
    record = stage.get()
    assert record.phase is Phase.STARTING and "trying it out" in record.reason
    other = stage.launch("bb", partition="gpu_h200")
    stage.slurm.start(other)
    stage.step()
    assert stage.get("bb").phase is Phase.STARTING
    monkeypatch.setattr("bouchet_worker.reconcile.smoke_runner.READY_DELAY_MAX_S", 0.0)
    stage.step()
    record = stage.get()
    assert record.phase is Phase.READY and record.job is not None and record.job.smoke is None
    gate.set()
    until(lambda: not stage.smokes.is_running)
    stage.step()
    job = stage.get().job
    assert job is not None and job.smoke is not None and job.smoke.chat.result == "ok"


def test_a_new_start_is_tried_anew(begin: Begin) -> None:
    stage = begin(at_once, call="text")
    stage.step(2)
    stage.slurm.requeue(stage.job_id)
    stage.step()
    job = stage.get().job
    assert job is not None and job.smoke is None
    stage.server.call = "read"
    stage.slurm.start(stage.job_id, "node2")
    write_connection(stage.slurm, stage.job_id, 20002)
    stage.step(3)
    record = stage.get()
    assert record.phase is Phase.READY and record.reason == ""


def test_the_loop_wakes_when_a_test_is_over(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bouchet_worker.reconcile.loop.STEP_S", 600.0)
    # then its patience never ends before the test does
    monkeypatch.setattr("bouchet_worker.reconcile.smoke_runner.READY_DELAY_MAX_S", 600.0)
    stage = begin()
    stage.step()
    stopping = threading.Event()
    thread = threading.Thread(target=stage.loop.run, args=(stopping,))
    thread.start()
    try:
        until(lambda: stage.get().phase is Phase.READY)
    finally:
        stopping.set()
        thread.join()
    job = stage.get().job
    assert job is not None and job.smoke is not None


def until(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
