"""Runs the table against one server or several, and prints who is right where."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from . import client_cases, openai_cases, shared_cases, variant_cases
from .case import Answer, Case, judge
from .shared_cases import KEY, MODEL

CASES: tuple[Case, ...] = (*openai_cases.CASES, *shared_cases.CASES, *client_cases.CASES, *variant_cases.CASES)
TIMEOUT_S = 120.0
SIDE_BY_SIDE = 4


@dataclass(frozen=True)
class Target:
    """A server under test. models: what it calls the scripted and the small model; is_ours: it has to be right.

    passes_through: each model's own server is under `/passthrough/NAME` of the URL.
    """

    name: str
    url: str
    key: str
    models: Mapping[str, str]
    is_ours: bool = False
    passes_through: bool = False


@dataclass(frozen=True)
class Verdict:
    """What came of one case at one target. problem: '' where it is right, None where the case says nothing of it."""

    case: str
    problem: str | None


def run_cases(target: Target, cases: Sequence[Case] = CASES) -> list[Verdict]:
    """Run the cases, some side by side, and return the verdicts in their order."""
    with httpx.Client(timeout=TIMEOUT_S) as client, ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        return list(threads.map(lambda case: _run(client, target, case), cases))


def _run(client: httpx.Client, target: Target, case: Case) -> Verdict:
    if case.only_ours and not target.is_ours:
        return Verdict(case.name, None)
    return Verdict(case.name, judge(case, _ask(client, target, case)))


def _ask(client: httpx.Client, target: Target, case: Case) -> Answer:
    model = target.models.get(case.model, case.model)
    key = {"x-api-key": target.key} if target.is_ours else {"authorization": f"Bearer {target.key}"}
    given = {name: value.replace(KEY, target.key) for name, value in {**key, **case.headers}.items()}
    headers = {name: value for name, value in given.items() if value}
    content = case.raw
    if content is not None and MODEL.encode() in content:
        content = content.replace(MODEL.encode(), model.encode())
    elif case.body is not None and content is None:
        content = json.dumps({"model": model, **case.body}).encode()
    if content is not None and "content-encoding" in headers:
        content = shared_cases.pack(headers["content-encoding"], content)
    headers.setdefault("content-type", "application/json")
    url = f"{target.url}/passthrough/{model}" if target.passes_through else target.url
    answer = client.request(case.method, url + case.path, content=content, headers=headers)
    return Answer(answer.status_code, answer.headers, answer.content)


def render(results: Mapping[str, Sequence[Verdict]]) -> str:
    """Return the table: a line for each case that is wrong anywhere, and the sums."""
    names = list(results)
    lines = [f"{'':60}" + "".join(f"{name:>16}" for name in names)]
    for index, verdict in enumerate(next(iter(results.values()))):
        row = [results[name][index].problem for name in names]
        if any(row):
            lines.append(f"{verdict.case[:59]:60}" + "".join(f"{_word(problem):>16}" for problem in row))
    sums = [_sum(verdicts) for verdicts in results.values()]
    return "\n".join([*lines, f"{'right':60}" + "".join(f"{total:>16}" for total in sums)])


def _word(problem: str | None) -> str:
    return "-" if problem is None else "wrong" if problem else "ok"


def _sum(verdicts: Sequence[Verdict]) -> str:
    judged = [verdict for verdict in verdicts if verdict.problem is not None]
    return f"{sum(not verdict.problem for verdict in judged)} of {len(judged)}"
