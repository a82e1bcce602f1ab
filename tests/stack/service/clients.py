"""Clients that work as a coding agent does: a conversation of streamed turns, some of them long, with pauses."""

from __future__ import annotations

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx

from tests.stack.harness import Stack

TURNS, MEASURED = 5, 200
# so long that the rest of its last block in the prefix cache counts for little
SYSTEM_LENGTH = 3000
# a hold of the proxy (240 s), and a long stream on a machine that is slow: what takes longer waits without an end
LONGEST_S = 420.0


@dataclass
class Turn:
    """One request and what came of it. error: empty if it was answered whole. session: of its conversation.

    at: Unix time of the request. cached: the share of its prompt that was in the prefix cache, by vLLM's own count.
    """

    session: str
    client: int
    at: float
    began: float
    took_s: float
    first_s: float
    error: str
    cached: float


@dataclass
class Agents:
    """Threads that each have one conversation after another until they are stopped.

    open: what each client asked for last, and since when, while its answer has not ended.
    """

    stack: Stack
    model: str
    count: int
    seed: int = 0
    longest: int = 3000
    turns: list[Turn] = field(default_factory=list)
    open: dict[int, tuple[str, float]] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def measure_rate(self) -> float:
        """Let all clients stream at once, and return the numbers a second of the slowest one."""
        began = time.monotonic()
        with ThreadPoolExecutor(self.count) as pool, self.stack.proxy() as http:
            messages = [{"role": "user", "content": f"COUNT[{MEASURED}]"}]
            asked = [pool.submit(self._ask, http, n, f"rate-{n}", messages, MEASURED) for n in range(self.count)]
            assert all(one.result() for one in asked)
        assert not self.failed, self.failed
        self.turns.clear()
        return MEASURED / (time.monotonic() - began)

    def start(self) -> None:
        """Start the clients."""
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(self.count)]
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = LONGEST_S) -> None:
        """Let every client finish its turn; the failed turns are named as well."""
        self._stopping.set()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        now = time.monotonic()
        waiting = [f"{what}, for {now - began:.0f} s" for what, began in list(self.open.values())]
        assert not waiting, f"clients still wait for an answer: {waiting}; failed: {self.failed}"

    @property
    def failed(self) -> list[Turn]:
        """The turns that were not answered whole."""
        return [turn for turn in self.turns if turn.error]

    def _run(self, number: int) -> None:
        rng = random.Random(self.seed * 1000 + number)
        with self.stack.proxy() as http:
            while not self._stopping.is_set():
                session, messages = f"{self.seed}-{number}-{rng.random()}", list[dict[str, str]]()
                for _ in range(TURNS):
                    if self._stopping.wait(rng.uniform(0, 3)):
                        return
                    length = self.longest if rng.random() < 0.25 else rng.randint(10, 300)
                    messages.append({"role": "user", "content": f"COUNT[{length}]"})
                    answer = self._ask(http, number, session, messages, length)
                    messages.append({"role": "assistant", "content": answer[:200] or "nothing"})

    def _ask(self, http: httpx.Client, number: int, session: str, messages: list[dict[str, str]], length: int) -> str:
        system = f"conversation {session}" + " word" * SYSTEM_LENGTH
        body = {"model": self.model, "max_tokens": 16_000, "stream": True, "system": system, "messages": messages}
        headers = {"x-claude-code-session-id": session}
        at, began = time.time(), time.monotonic()
        self.open[number] = f"COUNT[{length}] of {session}", began
        first, text, error = 0.0, "", ""
        usage: dict[str, int] = {}
        try:
            with http.stream("POST", "/v1/messages", json=body, headers=headers, timeout=120) as response:
                if response.status_code != 200:
                    error = f"{response.status_code} {response.read()[:300]!r}"
                for line in response.iter_lines():
                    if not line.startswith("data:"):
                        continue
                    event = json.loads(line[5:])
                    if event["type"] == "error":
                        error = str(event)
                    usage = event.get("usage") or usage
                    if event["type"] == "content_block_delta":
                        first = first or time.monotonic() - began
                        text += event["delta"].get("text", "")
        except httpx.HTTPError as exc:
            error = f"{type(exc).__name__}: {exc}"
        expected = " ".join(str(n) for n in range(1, length + 1))
        if not error and text.strip() != expected:
            error = f"the answer ends with {text[-40:]!r}, not with {length}"
        del self.open[number]
        took_s, cached = time.monotonic() - began, usage.get("cache_read_input_tokens") or 0
        share = cached / max(1, cached + (usage.get("input_tokens") or 0))
        self.turns.append(Turn(session, number, at, began, took_s, first, error, share))
        return text
