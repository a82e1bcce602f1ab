"""resumable.py behind the guard: answers without a reader go on, within bounds, for whoever has the key and the id."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import guard
import pytest
import resumable

from tests.remote.compute_node import KEY
from tests.remote.job.asgi_clients import HEAD, PATIENCE_S, Client, Model

ID, OTHER = "a" * 32, "b" * 32


@pytest.fixture
async def model() -> Model:
    return Model()


MakeGuard = Callable[..., Any]


@pytest.fixture
async def make(model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[MakeGuard]:
    """Make a guard with these bounds; at the end all its requests end."""
    made: list[Any] = []

    def guarded(**bounds: str) -> Any:
        for name, value in {"VLLM_API_KEY": KEY, "BOUCHET_DRAIN_FILE": str(tmp_path / "drain"), **bounds}.items():
            monkeypatch.setenv(name, value)
        made.append(guard.Guard(model))
        return made[-1]

    yield guarded
    for one in made:
        answers = list(one._answers._answers.values())
        for answer in answers:
            one._answers.abort(answer.name)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*(answer.task for answer in answers if answer.task is not None))


def ask(guarded: Any, name: str = ID, **more: Any) -> Client:
    return Client(guarded, "POST", "/v1/messages", x_bouchet_stream=name, **more)


def resume(guarded: Any, offset: int | str, attempt: int | str = 1, name: str = ID, **more: Any) -> Client:
    return Client(guarded, "GET", f"/bouchet/streams/{name}?from={offset}", x_bouchet_attempt=str(attempt), **more)


async def lost_after(guarded: Any, model: Model, body: bytes, name: str = ID) -> None:
    """Begin an answer, and lose its connection when this much has been received."""
    client = ask(guarded, name)
    model.say(body)
    await client.has(body)
    client.lose()
    await client.done()


async def test_lost_answer_goes_on_from_any_byte(make: MakeGuard, model: Model) -> None:
    guarded = make()
    await lost_after(guarded, model, b"0123")
    model.say(b"4567")
    reader = resume(guarded, 2)
    await reader.has(b"234567")
    assert reader.status == 200 and reader.headers[b"x-bouchet-stream"] == b"resumed"
    assert reader.headers[b"content-type"] == b"text/event-stream"
    model.say(b"89")
    model.end()
    assert (await reader.done()).body == b"23456789" and reader.whole
    assert (model.requests, model.disconnected.is_set()) == (1, False)


async def test_finished_answer_is_kept_for_a_while(make: MakeGuard, model: Model) -> None:
    guarded = make(BOUCHET_RESUME_S="1")
    client = ask(guarded)
    model.say(b"all")
    model.end()
    assert (await client.done()).whole
    assert (await resume(guarded, 2).done()).body == b"l"
    assert (await resume(guarded, 3, 2).done()).whole, "the cut was after the last byte"
    await asyncio.sleep(1.2)
    assert (await resume(guarded, 0, 3).done()).status == 404
    assert guarded._answers.kept_bytes == 0


async def test_answer_without_a_reader_is_aborted_after_a_while(make: MakeGuard, model: Model) -> None:
    guarded = make(BOUCHET_RESUME_S="1")
    await lost_after(guarded, model, b"x")
    assert not model.disconnected.is_set()
    await asyncio.wait_for(model.disconnected.wait(), PATIENCE_S)


@pytest.mark.parametrize(
    ("offset", "attempt", "name", "status"),
    [
        (0, 1, OTHER, 404),
        (0, 1, "../x", 404),
        (5, 1, ID, 410),
        ("-1", 1, ID, 400),
        ("9" * 40, 1, ID, 400),
        ("", 1, ID, 400),
        (0, 0, ID, 409),
        (0, "x", ID, 400),
    ],
)
async def test_resume_of_what_is_not_there_is_refused(
    make: MakeGuard, model: Model, offset: int | str, attempt: int | str, name: str, status: int
) -> None:
    guarded = make()
    await lost_after(guarded, model, b"0123")
    refused = await resume(guarded, offset, attempt, name).done()
    assert refused.status == status and b"0123" not in refused.body
    assert not model.disconnected.is_set()


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
async def test_answers_need_the_jobs_key(make: MakeGuard, model: Model, method: str) -> None:
    guarded = make()
    await lost_after(guarded, model, b"0123")
    path = f"/bouchet/streams/{ID}?from=0"
    refused = await Client(guarded, method, path, authorization="Bearer x", x_bouchet_attempt="1").done()
    assert refused.status == 401 and not model.disconnected.is_set()


async def test_two_readers_at_once_only_the_later_attempt_reads(make: MakeGuard, model: Model) -> None:
    guarded = make()
    await lost_after(guarded, model, b"0123")
    first = resume(guarded, 0, 1)
    await first.has(b"0123")
    assert (await resume(guarded, 0, 1).done()).status == 409
    second = resume(guarded, 4, 2)
    assert not (await first.done()).whole
    model.say(b"4")
    await second.has(b"4")


async def test_reader_over_a_frozen_link_is_replaced(make: MakeGuard, model: Model) -> None:
    """The connection lives as far as the guard can see, and takes nothing."""
    guarded = make()
    frozen = ask(guarded, slow=True)
    for _ in range(20):
        model.say(bytes(64 << 10))
    model.end()
    await asyncio.sleep(0.1)
    assert model.sent <= kept_answer_limit() and not frozen.whole, "a slow reader makes vLLM wait"
    other = await resume(guarded, 0).done()
    assert len(other.body) == 20 * (64 << 10) and other.whole
    frozen.lose()
    with contextlib.suppress(RuntimeError):
        await frozen.done()


def kept_answer_limit() -> int:
    return resumable.MAX_BEHIND + (128 << 10)


async def test_slow_reader_after_a_resume_makes_the_model_wait(make: MakeGuard, model: Model) -> None:
    guarded = make()
    await lost_after(guarded, model, b"x")
    reader = resume(guarded, 1, slow=True)
    await asyncio.sleep(0)
    for _ in range(20):
        model.say(bytes(64 << 10))
    await asyncio.sleep(0.1)
    assert model.sent <= kept_answer_limit()
    reader.lose()
    await reader.done()


async def test_same_request_twice_is_served_once(make: MakeGuard, model: Model) -> None:
    guarded = make()
    await lost_after(guarded, model, b"x")
    again = await ask(guarded).done()
    assert (again.status, again.headers[b"x-bouchet-stream"], model.requests) == (409, b"busy", 1)


async def test_abort_ends_the_request_and_refuses_it_later(make: MakeGuard, model: Model) -> None:
    guarded = make()
    await lost_after(guarded, model, b"x")
    assert (await Client(guarded, "DELETE", f"/bouchet/streams/{ID}").done()).status == 200
    await asyncio.wait_for(model.disconnected.wait(), PATIENCE_S)
    assert (await resume(guarded, 0).done()).status == 404
    # an abort may arrive before its request
    assert (await Client(guarded, "DELETE", f"/bouchet/streams/{OTHER}").done()).status == 404
    assert (await ask(guarded, OTHER).done()).status == 409 and model.requests == 1


async def test_abort_reaches_a_model_that_writes_to_a_connection_that_takes_nothing(
    make: MakeGuard, model: Model
) -> None:
    guarded = make()
    frozen = ask(guarded, slow=True)
    model.say(b"x")
    await asyncio.sleep(0.05)
    assert (await Client(guarded, "DELETE", f"/bouchet/streams/{ID}").done()).status == 200
    # before the time after which a task that does not end is cancelled
    await asyncio.wait_for(model.disconnected.wait(), resumable.ABORT_GRACE_S / 2)
    await frozen.done()


async def test_connection_that_raises_is_as_good_as_lost(make: MakeGuard, model: Model) -> None:
    guarded = make()
    broken = ask(guarded, broken=True)
    model.say(b"0123")
    await broken.done()
    model.say(b"45")
    model.end()
    other = await resume(guarded, 0).done()
    assert (other.body, other.whole, broken.whole) == (b"012345", True, False)


async def test_request_lost_before_it_is_complete_may_come_again(make: MakeGuard, model: Model) -> None:
    guarded = make()
    client = ask(guarded)
    client._has_sent = True
    client.lose()
    await client.done()
    assert model.disconnected.is_set()
    client = ask(guarded)
    model.end()
    assert (await client.done()).whole and model.requests == 2


async def test_failed_answer_is_refused_once_read(make: MakeGuard, model: Model) -> None:
    guarded = make()
    await lost_after(guarded, model, b"0123")
    model.say(RuntimeError("engine dead"))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    reader = await resume(guarded, 2).done()
    assert reader.body == b"23" and not reader.whole
    assert (await resume(guarded, 4, 2).done()).status == 410


async def test_draining_server_still_serves_lost_answers(make: MakeGuard, model: Model, tmp_path: Path) -> None:
    guarded = make()
    await lost_after(guarded, model, b"0123")
    (tmp_path / "drain").touch()
    assert (await ask(guarded, OTHER).done()).status == 503
    reader = resume(guarded, 4)
    model.end()
    assert (await reader.done()).whole


class Flood(Model):
    """Sends `x`, and after `open` PIECES more."""

    PIECES, PIECE = 20, bytes(16 << 10)

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.ended = 0

    async def _answer(self, send: Any) -> None:
        await send(HEAD)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await self.open.wait()
        for _ in range(self.PIECES):
            await send({"type": "http.response.body", "body": self.PIECE, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        self.ended += 1


async def test_memory_of_many_lost_answers_is_bounded(make: MakeGuard) -> None:
    """64 answers without a reader have 20 MiB to say, and 8 MiB of memory: vLLM waits, and none is lost."""
    flood, guarded = Flood(), make(BOUCHET_RESUME_MIB="8")
    guarded._app = flood
    names = [f"{number:032x}" for number in range(64)]
    for name in names:
        await lost_after(guarded, flood, b"x", name)
    flood.open.set()
    await asyncio.sleep(0.3)
    assert guarded._answers.kept_bytes <= (8 << 20) + 64 * len(Flood.PIECE) and flood.ended < 64
    readers = [await resume(guarded, 0, name=name).done() for name in names]
    assert {len(reader.body) for reader in readers} == {1 + Flood.PIECES * len(Flood.PIECE)}
    assert flood.ended == 64 and not flood.disconnected.is_set()
    assert guarded._answers.kept_bytes <= (8 << 20) + 64 * len(Flood.PIECE)


async def test_sent_answers_go_first_when_memory_is_short(make: MakeGuard, model: Model) -> None:
    guarded = make(BOUCHET_RESUME_MIB="1")
    client = ask(guarded)
    model.say(bytes(900 << 10))
    model.end()
    await client.done()
    await lost_after(guarded, model, bytes(200 << 10), OTHER)
    assert (await resume(guarded, 0).done()).status == 404
    assert guarded._answers.kept_bytes == 200 << 10


async def test_request_without_an_id_ends_with_its_connection(make: MakeGuard, model: Model) -> None:
    client = Client(make(), "POST", "/v1/messages")
    model.say(b"x")
    await client.has(b"x")
    client.lose()
    await client.done()
    assert model.disconnected.is_set()
