"""Times and numbers in the page: another clock, a connection that is gone without a word, values at the ends."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Phase
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage, sign_in
from tests.browser.house import House
from tests.waiting import wait_for

pytestmark = pytest.mark.slow
CARD = "bouchet-qwen3-coder-next, ready"
# the browser's clock is `ahead` milliseconds before the real one; streams are counted, and say nothing while `silent`
CHANGED = """
window.ahead = %d; window.silent = false; window.streams = 0;
const RealDate = Date, RealSource = EventSource;
window.Date = class extends RealDate {
  constructor(...parts) { if (parts.length) super(...parts); else super(RealDate.now() + window.ahead); }
  static now() { return RealDate.now() + window.ahead; }
};
window.EventSource = class extends RealSource {
  constructor(path) { super(path); window.streams += 1; }
  addEventListener(name, action) { super.addEventListener(name, (event) => { if (!window.silent) action(event); }); }
};
"""
VALUES: list[tuple[str, str]] = [
    ("number(null)", "–"), ("number(0)", "0"), ("number(1e15)", "1,000,000,000,000,000"),
    ("short(undefined)", "–"), ("short(NaN)", "–"), ("short(0)", "0"), ("short(999)", "999"), ("short(999.7)", "1.0k"),
    ("short(9960)", "10k"), ("short(999999)", "1.0M"), ("short(123456)", "123k"), ("short(2.5e9)", "2.5G"),
    ("percent(null)", "–"), ("percent(NaN)", "–"), ("percent(0)", "0 %"), ("percent(1)", "100 %"),
    ("bytes(null)", "–"), ("bytes(0)", "0 B"), ("bytes(1023)", "1,023 B"), ("bytes(1048575)", "1.0 MiB"),
    ("bytes(5e15)", "4,547 TiB"), ("seconds(null)", "–"), ("seconds(0)", "0.0 ms"), ("seconds(3600)", "3,600.0 s"),
    ("duration(null)", "–"), ("duration(NaN)", "–"), ("duration(-5)", "0 s"), ("duration(59.6)", "1 min"),
    ("duration(90000)", "1 d 1 h"), ("clock(null)", "–"), ("clock(undefined)", "–"), ("clock('x')", "–"),
]  # fmt: skip


def open_changed(open_page: OpenPage, ahead_ms: int) -> Page:
    """Open the page in a browser whose clock is ahead by that much."""
    page = open_page(key="")
    page.add_init_script(CHANGED % ahead_ms)
    page.reload()
    sign_in(page)
    return page


def test_values_at_the_ends_are_shown_as_people_read_them(open_page: OpenPage) -> None:
    page = open_page()
    calls = ", ".join(f"of.{call}" for call, _ in VALUES)
    found = page.evaluate(f"async () => {{ const of = await import('/assets/format.js'); return [{calls}]; }}")
    expected = [text for _, text in VALUES]
    assert dict(zip(VALUES, found, strict=True)) == dict(zip(VALUES, expected, strict=True)), json.dumps(found)


@pytest.mark.parametrize("ahead_h", [-30, 3])
def test_page_goes_by_the_clock_of_the_api(open_page: OpenPage, house: House, ahead_h: int) -> None:
    page = open_changed(open_page, ahead_h * 3_600_000)
    job = house.store.get("aaaaaaaaaaaa").jobs[-1]
    assert job.placement is not None
    ends = job.since[Phase.STARTING] + timedelta(seconds=job.placement.walltime_s)
    card = page.get_by_role("article", name=CARD)
    minutes = int((ends - datetime.now(UTC)).total_seconds() // 60)
    nearly = "|".join(str(minutes + more) for more in range(-5, 2))
    expect(card.locator(".left")).to_contain_text(re.compile(rf"ends .*, in ({nearly}) min"))
    expect(card.locator(".figures")).to_contain_text("running")
    assert page.get_by_role("region", name="The last hour").locator("path").first.get_attribute("d") != "M0 0"


def test_silent_connection_is_opened_again(open_page: OpenPage) -> None:
    page = open_changed(open_page, 0)
    expect(page.get_by_role("article")).to_have_count(4)
    before = page.evaluate("window.streams")
    # an hour of sleep: nothing has come, and nothing broke
    page.evaluate("window.silent = true; window.ahead = 3_600_000;")
    wait_for(lambda: page.evaluate("window.streams") > before)
    page.evaluate("window.silent = false")
    expect(page.get_by_text("The API does not answer")).to_have_count(0)
    expect(page.get_by_role("article", name=CARD).locator(".figures")).to_contain_text("running")
