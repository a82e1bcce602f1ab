"""People who work with Claude Code: when they ask, how long answers take, and when they are away.

A life is a generator: it yields `Sleep` or `Ask` and is resumed when the time has come or the answer has ended.
Times are seconds since the simulation's first midnight, a Monday, by the local clock.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass

HOUR = 3600.0
DAY = 24 * HOUR
# seconds between a prompt's answer and the next prompt, a tool's run, and an answer: medians and spreads (lognormal)
PAUSE_S, PAUSE_SPREAD = 75.0, 1.1
TOOL_S, TOOL_SPREAD = 3.0, 1.2
ANSWER_S, ANSWER_SPREAD = 8.0, 0.9
LONGEST_ANSWER_S = 400.0
# requests of one prompt: the agent's loop of tools
REQUESTS_A_TURN = 8.0
# minutes of work with the model, and of other work, in a stretch
WITH_MODEL_MIN, WITHOUT_MODEL_MIN = 40.0, 20.0


@dataclass(frozen=True)
class Sleep:
    """Away until then."""

    until: float


@dataclass(frozen=True)
class Ask:
    """One request; its answer takes service_s once it begins."""

    service_s: float


Life = Generator[Sleep | Ask, float, None]


def life(rng: random.Random, days: int) -> Life:
    """Return one person's weeks. Resumed with the time."""
    now = 0.0
    for day in range(days):
        for start, end in day_of(rng, day):
            if now < start:
                now = yield Sleep(start)
            while now < end:
                # a turn: the agent asks again after each tool
                for _ in range(_geometric(rng, REQUESTS_A_TURN)):
                    now = yield Ask(answer_s(rng))
                    now = yield Sleep(now + rng.lognormvariate(0, TOOL_SPREAD) * TOOL_S)
                now = yield Sleep(now + rng.lognormvariate(0, PAUSE_SPREAD) * PAUSE_S)


def answer_s(rng: random.Random) -> float:
    """Return how long an answer takes: mostly seconds, rarely minutes."""
    return min(LONGEST_ANSWER_S, rng.lognormvariate(0, ANSWER_SPREAD) * ANSWER_S)


def day_of(rng: random.Random, day: int) -> list[tuple[float, float]]:
    """Return the stretches of one day in which the person works with the model."""
    midnight = day * DAY
    spans: list[tuple[float, float]] = []
    if day % 7 < 5 and rng.random() < 0.93:
        arrive, leave = _near(rng, 9.0, 0.4), _near(rng, 17.75, 0.7)
        lunch = _near(rng, 12.3, 0.3)
        breaks = [(lunch, lunch + min(1.5, max(0.4, _near(rng, 0.85, 0.25))))]
        for _ in range(_poisson(rng, 1.2)):
            begin = rng.uniform(arrive, max(arrive, leave - 1))
            breaks.append((begin, begin + rng.choice([0.5, 0.5, 1.0])))
        spans += _without(arrive, leave, breaks)
        if rng.random() < 0.25:
            begin = rng.uniform(20.0, 21.5)
            spans.append((begin, begin + rng.uniform(0.75, 2.0)))
    elif day % 7 >= 5 and rng.random() < 0.2:
        begin = rng.uniform(10.0, 16.0)
        spans.append((begin, begin + rng.uniform(1.0, 3.0)))
    worked = [part for start, end in spans for part in _stretches(rng, start, end)]
    return [(midnight + start * HOUR, midnight + end * HOUR) for start, end in worked]


def _stretches(rng: random.Random, start: float, end: float) -> list[tuple[float, float]]:
    """Return the parts of a span of hours in which the model is used; the rest is other work."""
    found = []
    while start < end:
        stop = min(end, start + rng.expovariate(60 / WITH_MODEL_MIN))
        found.append((start, stop))
        start = stop + rng.expovariate(60 / WITHOUT_MODEL_MIN)
    return found


def _without(start: float, end: float, breaks: list[tuple[float, float]]) -> list[tuple[float, float]]:
    found = []
    for begin, stop in sorted(breaks):
        if begin > start:
            found.append((start, min(begin, end)))
        start = max(start, stop)
    if start < end:
        found.append((start, end))
    return [(a, b) for a, b in found if a < b]


def _near(rng: random.Random, mean: float, spread: float) -> float:
    return min(mean + 3 * spread, max(mean - 3 * spread, rng.gauss(mean, spread)))


def _geometric(rng: random.Random, mean: float) -> int:
    return min(60, 1 + int(rng.expovariate(1 / mean)))


def _poisson(rng: random.Random, mean: float) -> int:
    count, left = 0, rng.expovariate(1.0)
    while left < mean:
        count += 1
        left += rng.expovariate(1.0)
    return count
