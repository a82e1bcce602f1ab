"""`make screenshots`: renew the pictures of docs/dashboard.md from a scene of records, in the real browser."""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import sign_in
from tests.browser.house import House, keep_scene_alive, open_house
from tests.browser.scene import month_of_jobs

DOCS = Path(__file__).parents[2] / "docs"
# name, colour scheme, width and height
PICTURES = (("light", "light", 1360, 1000), ("dark", "dark", 1360, 1000), ("phone", "light", 390, 844))
SETTLE_MS = 3000


def take(browser: Browser, house: House, name: str, scheme: str, width: int, height: int) -> Path:
    """Take one picture of the overview."""
    viewport = {"width": width, "height": height}
    context = browser.new_context(color_scheme=scheme, viewport=viewport)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(house.url)
    sign_in(page)
    page.get_by_role("article").first.wait_for()
    page.wait_for_timeout(SETTLE_MS)
    target = DOCS / f"dashboard-{name}.png"
    page.screenshot(path=target)
    context.close()
    return target


def main() -> int:
    """Take all pictures and print their names."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    stopping = threading.Event()
    with tempfile.TemporaryDirectory() as directory, open_house(Path(directory), with_proxy=False) as house:
        house.store.ledger.append(month_of_jobs(datetime.now(UTC)))
        thread = threading.Thread(target=keep_scene_alive, args=(house, 600, stopping))
        thread.start()
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
                for picture in PICTURES:
                    print(take(browser, house, *picture))
                browser.close()
        finally:
            stopping.set()
            thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
