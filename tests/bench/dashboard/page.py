"""What the dashboard's page weighs, how soon it is painted, and whom it asks. `python -m tests.bench.dashboard.page`.

A real Chromium over the real API, each time with an empty cache.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from tests.bench.dashboard.cpu import open_browser
from tests.bench.figures import Figure, render
from tests.browser.conftest import sign_in
from tests.browser.house import open_house
from tests.waiting import wait_for

TIMES = 9
MOST_KB, MOST_MS = 150, 300
PAINT_TIMEOUT_S = 10
VIEWS = ("chat", "models", "keys", "logs/aaaaaaaaaaaa")
FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint').map((one) => one.startTime)[0]"


@dataclass
class Visit:
    """One visit of all views. sent: bytes of what came as it came, of each file once; foreign: URLs of other hosts."""

    paint_ms: float
    sent: dict[str, int]
    foreign: list[str]


def paint_page() -> list[Figure]:
    """Measure several visits."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open_house(Path(folder), with_proxy=False) as house,
        open_browser() as browser,
    ):
        visits = [visit(browser, house.url) for _ in range(TIMES)]
    paints = sorted(one.paint_ms for one in visits)
    files = visits[0].sent
    heaviest = sorted(files, key=lambda name: -files[name])[:3]
    parts = ", ".join(f"{name.rpartition('/')[2]} {files[name] / 1000:.1f}" for name in heaviest)
    return [
        Figure("page in all, as it is sent", sum(files.values()) / 1000, "kB", MOST_KB, f"{len(files)} files; {parts}"),
        Figure("first paint", statistics.median(paints), "ms", MOST_MS, f"{paints[0]:.0f} to {paints[-1]:.0f} ms"),
        Figure("requests to other hosts", sum(len(one.foreign) for one in visits), "", 0),
    ]


def visit(browser: Browser, url: str) -> Visit:
    """Open the page with an empty cache, sign in and open every view."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, sent, foreign = context.new_page(), dict[str, int](), list[str]()
    page.on("request", lambda request: None if request.url.startswith(url) else foreign.append(request.url))
    page.on("requestfinished", lambda request: _note(request, url, sent))
    page.goto(url)
    # wait_for_function asks again by eval, which the page's policy forbids
    paint = wait_for(lambda: page.evaluate(FIRST_PAINT), PAINT_TIMEOUT_S)
    sign_in(page)
    page.get_by_role("article").first.wait_for()
    for view in VIEWS:
        page.goto(f"{url}/#{view}")
        page.wait_for_timeout(300)
    context.close()
    return Visit(float(paint), sent, foreign)


def _note(request: Any, url: str, sent: dict[str, int]) -> None:
    """Note the size of a file of the page; what the API answers is not part of it."""
    path = request.url.removeprefix(url)
    if path == "/" or path.startswith("/assets/"):
        sizes = request.sizes()
        sent[path] = sizes["responseBodySize"] + sizes["responseHeadersSize"]


def main() -> int:
    """Measure and print; return 1 if a target is missed."""
    figures = paint_page()
    print(render(figures))
    return 0 if all(one.is_met for one in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
