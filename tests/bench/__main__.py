"""Measures a stack of its own and prints each figure beside its target.

`python -m tests.bench [PART ...]`: all parts, or those whose titles begin with a word given. A part that fails leaves
the others' figures. BOUCHET_TEST_KEEP=1 leaves the stack running for the next time.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence

from tests.stack.harness import LOCAL_SERVICES, Stack, open_stack, say

from .chain import compare_first_byte, streamed_rate
from .dashboard.cpu import watch_dashboard
from .dashboard.page import paint_page
from .figures import Figure, render
from .images import build_twice
from .kept_answers.compare import compare_resuming
from .lag import seen_running
from .ledger import million_requests
from .prefix import prefix_cache
from .proxy_peers import compare_proxies
from .records import many_records
from .script import compare_scripts
from .start import compare_starts
from .tunnel.compare import compare_with_ssh


def main(words: Sequence[str]) -> int:
    """Bring a stack up, measure, print; return 1 if a target is missed or a part failed, 2 for an unknown part."""
    chosen = [title for title in PARTS if not words or any(title.startswith(word) for word in words)]
    if not chosen:
        print(f"error: no part begins so; there are: {'; '.join(PARTS)}", file=sys.stderr)
        return 2
    stack = open_stack()
    figures: list[Figure] = []
    failed: list[str] = []
    try:
        figures += stack_figures(stack)
        for title in chosen:
            say(f"bench: {title}")
            try:
                figures += PARTS[title](stack)
            except Exception:
                traceback.print_exc()
                failed.append(title)
    finally:
        if not os.environ.get("BOUCHET_TEST_KEEP"):
            stack.remove()
        if figures:
            print(render(figures))
    print("".join(f"FAILED: {title}\n" for title in failed), end="")
    return 0 if all(figure.is_met for figure in figures) and not failed else 1


def stack_figures(stack: Stack) -> list[Figure]:
    """Measure the stack itself, before anything runs on it."""
    figures = [up("make up, images built, nothing running", stack, 600)]
    figures.append(up("make up again, everything running", stack, 60))
    say("bench: idle memory")
    time.sleep(10)
    return [*figures, memory(stack)]


# in the order in which they disturb each other least
PARTS: dict[str, Callable[[Stack], list[Figure]]] = {
    "200 deployments on record": many_records,
    "a ledger of a million requests": million_requests,
    "a job's start": seen_running,
    "the batch script beside a bare start": compare_scripts,
    "start of a model": compare_starts,
    "first byte of a Claude Code request": compare_first_byte,
    "streams": streamed_rate,
    "prefix cache of a Claude Code session": prefix_cache,
    "the proxy beside others": lambda _: compare_proxies(f"bouchet/proxy:{os.environ.get('BOUCHET_IMAGE_TAG', 'dev')}"),
    "answers that outlive their connections": lambda _: compare_resuming(),
    "the gateway beside ssh -L": lambda _: compare_with_ssh(),
    "the dashboard in three tabs": lambda _: watch_dashboard(),
    "the page's weight and first paint": lambda _: paint_page(),
    "the CPU image, built twice": build_twice,
}


def up(title: str, stack: Stack, target_s: float) -> Figure:
    """Measure the wall time of `make up`."""
    started = time.monotonic()
    done = stack.make("up")
    assert done.status == 0, done.output
    return Figure(title, time.monotonic() - started, "s", target_s)


def memory(stack: Stack) -> Figure:
    """Measure the memory of the five local containers, without reclaimable page cache."""
    used = {service: stack.memory_mib(service) for service in LOCAL_SERVICES}
    total = sum(used.values())
    parts = [f"{service} {mib:.0f}" for service, mib in used.items()]
    return Figure("memory of the five local containers, idle", total, "MiB", 750, ", ".join(parts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
