"""All pages: accessible in light and dark, on a phone and a wide screen; a day of events leaves no trace in memory."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.bench.dashboard.page import MOST_KB, visit
from tests.browser.conftest import OpenPage, violations
from tests.browser.house import House
from tests.waiting import wait_for

pytestmark = pytest.mark.slow
VIEWS = {
    "": "Deployments",
    "chat": "Model",
    "models": "Container images",
    "keys": "A new key",
    "logs/aaaaaaaaaaaa": "Log of",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_violation_of_accessibility(open_page: OpenPage, house: House, scheme: str) -> None:
    page = open_page(key="", color_scheme=scheme)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert violations(page) == []
    page = open_page(color_scheme=scheme)
    for path, text in VIEWS.items():
        page.goto(f"{house.url}/#{path}")
        expect(page.get_by_text(text).first).to_be_visible()
        assert violations(page) == [], path
    page.goto(f"{house.url}/#")
    for summary in page.locator("summary").all():
        summary.click()
    house.gateway.ask("p1", "Passcode: ")
    expect(page.get_by_role("alert")).to_be_visible()
    assert violations(page) == [], "with everything open and a login that asks"
    page.get_by_role("button", name="Launch a model").click()
    expect(page.get_by_role("dialog").get_by_label("Model")).not_to_be_empty()
    assert violations(page) == [], "dialog"


def test_all_views_together_weigh_little_and_ask_no_other_host(chromium: Browser, house: House) -> None:
    found = visit(chromium, house.url)
    assert {"/", "/assets/main.js", "/assets/chat.js", "/assets/logs.js"} <= set(found.sent)
    assert sum(found.sent.values()) <= MOST_KB * 1000, found.sent
    assert found.foreign == []


@pytest.mark.parametrize("width", [360, 768, 1280, 2200])
def test_no_page_scrolls_sideways(open_page: OpenPage, house: House, width: int) -> None:
    page = open_page(viewport={"width": width, "height": 800})
    for path in VIEWS:
        page.goto(f"{house.url}/#{path}")
        page.wait_for_timeout(400)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path


def test_everything_is_reached_by_keyboard(open_page: OpenPage) -> None:
    page = open_page()
    page.reload()
    expect(page.get_by_role("article")).to_have_count(4)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText"))
    assert {"Launch a model", "Sign out", "Cancel bouchet-kimi-k2", "Log of bouchet-glm-4.7"} <= seen
    page.get_by_role("button", name="Cancel bouchet-kimi-k2").press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def heap_bytes(page: Page) -> int:
    """Return what the page's scripts hold after a garbage collection."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    found = session.send("Runtime.getHeapUsage")
    session.detach()
    return int(found["usedSize"])


def test_a_day_of_events_leaves_no_trace_in_memory(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.get_by_role("article")).to_have_count(4)
    # a day of points every five seconds, and of lists of requests, given to the page's own handlers
    page.evaluate("""() => {
        const Original = EventSource.prototype.addEventListener;
        window.handlers = {};
        EventSource.prototype.addEventListener = function (name, action) {
            window.handlers[name] = action;
            return Original.call(this, name, action);
        };
    }""")
    page.evaluate("window.dispatchEvent(new Event('restart-stream'))")
    expect(page.get_by_role("article")).to_have_count(4)
    # wait_for_function asks again by eval, which the page's policy forbids
    wait_for(lambda: page.evaluate("!!(window.handlers && window.handlers.points)"))
    feed = """async ([first, count]) => {
        const now = Math.floor(Date.now() / 1000);
        for (let number = first; number < first + count; number += 1) {
            const at = now + number * 5;
            const point = {job: "bouchet-aaaaaaaaaaaa-1", deployment: "a", at, running: number % 7, made: number % 300};
            window.handlers.points({data: JSON.stringify([point])});
            const rows = Array.from({length: 20}, (_, row) => ({id: number * 20 + row, phase: "decode", began: at}));
            window.handlers.requests({data: JSON.stringify({at, requests: rows, errors: []})});
            if (number % 100 === 0) await new Promise((done) => requestAnimationFrame(done));
        }
    }"""
    page.evaluate(feed, [0, 2000])
    before = heap_bytes(page)
    page.evaluate(feed, [2000, 15_280])
    assert heap_bytes(page) - before < 4_000_000
    assert page.evaluate("document.querySelectorAll('*').length") < 3000
