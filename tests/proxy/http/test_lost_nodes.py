"""A node that is lost without a word, and a server that closes every connection: no request waits without an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from bouchet_core.deployments import Deployment
from bouchet_proxy.http import resumption

from tests.proxy.client import CHAT, MESSAGES, chat_body, post, wait_for_status
from tests.proxy.environment import NODE_PORT
from tests.proxy.http.test_resumption import LONG, MODEL, CutLink, link, read_content, stream, text_of

__all__ = ["link"]
# a read timeout would be 900 s
SOON_S = 60.0


@pytest.fixture(autouse=True)
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumption, "SILENT_S", 0.5)
    monkeypatch.setattr(resumption, "WATCH_S", 0.2)


@contextmanager
def lost_node(link: CutLink) -> Iterator[None]:
    """Let the node fall silent, and the record say that its job has ended; undo both."""
    store = link.proxy.environment.store
    record = next(one for one in store.live() if one.alias == MODEL)

    def with_port(port: int) -> None:
        job = record.jobs[0].model_copy(update={"port": port})

        def change(old: Deployment) -> Deployment:
            return old.model_copy(update={"jobs": (job,), "version": old.version + 1})

        store.update(record.id, change)

    link.relay.silence()
    with_port(NODE_PORT + 1)
    try:
        yield
    finally:
        with_port(NODE_PORT)
        link.relay.restore()
        wait_for_status(link.proxy, 200, MODEL)


def asked(link: CutLink) -> int:
    """Return how often the model was asked for an answer."""
    return sum(not request["path"].endswith("count_tokens") for request in link.server.vllm.requests)


def in_background(link: CutLink, path: str, body: dict[str, object]) -> tuple[threading.Thread, list[bytes]]:
    """Ask in a thread; return it and the list that gets the answer."""
    answers = list[bytes]()
    thread = threading.Thread(target=lambda: answers.append(post(link.proxy, path, body).content))
    thread.start()
    return thread, answers


def test_answer_of_a_lost_node_goes_on_from_another_job(link: CutLink) -> None:
    served = asked(link)
    with stream(link, LONG) as answer:
        pieces = answer.iter_raw()
        data = read_content(pieces)
        with lost_node(link):
            time.sleep(1.5)
        data += b"".join(pieces)
    assert text_of(data).split() == ["word"] * 40
    assert asked(link) == served + 2


@pytest.mark.parametrize("wait", ["HEAD[12]", "SLOW[12]"])
def test_request_at_a_lost_node_is_sent_to_another_job(link: CutLink, wait: str) -> None:
    served = asked(link)
    thread, answers = in_background(link, MESSAGES, chat_body(f"SAY[late] {wait}", model=MODEL, stream=True))
    try:
        wait_until_served(link, served + 1)
        with lost_node(link):
            time.sleep(1.5)
        # the next one has to wait as long as the first
        wait_until_served(link, served + 2)
    finally:
        thread.join(SOON_S)
    assert text_of(answers[0]) == "late"


@pytest.mark.parametrize("path", [MESSAGES, CHAT])
def test_whole_answer_of_a_lost_node_is_an_error_at_once(link: CutLink, path: str) -> None:
    served = asked(link)
    thread, answers = in_background(link, path, chat_body("SAY[late] SLOW[12]", model=MODEL))
    wait_until_served(link, served + 1)
    with lost_node(link):
        thread.join(SOON_S)
    assert b"error" in answers[0]


def wait_until_served(link: CutLink, count: int) -> None:
    """Wait until the model has had that many requests."""
    deadline = time.monotonic() + SOON_S
    while asked(link) < count:
        assert time.monotonic() < deadline, f"{asked(link)} of {count} requests"
        time.sleep(0.05)
