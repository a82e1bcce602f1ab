"""The dashboard in a real Chromium, over the real API, proxy and Redis. `make tools` installs the browser."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, TimeoutError, expect, sync_playwright

from tests.browser.house import House, keep_scene_alive, open_house
from tests.fakes.running_api import ADMIN_KEY

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
LIGHT_WIDE = {"width": 1280, "height": 900}

# a page shows what has changed without an event within five seconds; a busy machine takes longer
expect.set_options(timeout=20_000)

OpenPage = Callable[..., Page]


@pytest.fixture(scope="session")
def shared_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("house")) as house:
        yield house


@pytest.fixture
def house(shared_house: House) -> Iterator[House]:
    """Return the installation with its scene, which is kept alive during the test."""
    shared_house.reset()
    stopping = threading.Event()
    thread = threading.Thread(target=keep_scene_alive, args=(shared_house, 600, stopping))
    thread.start()
    yield shared_house
    stopping.set()
    thread.join()


# Playwright's loop counts as running in this thread until it is stopped: no other test could start one
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "Chromium is not installed; `make tools` installs it where it can"
    with sync_playwright() as playwright:
        # the sandbox of a browser that runs as root, as tests in containers do, does not start
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class Watched:
    """What pages did that they must not: errors, and requests to other hosts."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.unanswered: list[str] = []

    def watch(self, page: Page) -> None:
        """Note what this page does."""
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("request", lambda request: self._asked(request.url))
        page.on("response", lambda response: self._answered(response.url))

    def _asked(self, url: str) -> None:
        self.unanswered.append(url)
        if not url.startswith(self.url):
            self.foreign.append(url)

    def _answered(self, url: str) -> None:
        if url in self.unanswered:
            self.unanswered.remove(url)

    def _note(self, kind: str, text: str) -> None:
        # a refused request is an answer that a test may provoke
        if kind == "error" and "Failed to load resource" not in text and "ERR_" not in text:
            self.errors.append(text)


@pytest.fixture
def open_page(house: House, chromium: Browser) -> Iterator[OpenPage]:
    """Return a function that opens the dashboard in a browser of its own; signed in, unless `key` is empty."""
    contexts: list[BrowserContext] = []
    watched = Watched(house.url)

    def open_one(path: str = "/", *, key: str = ADMIN_KEY, **options: Any) -> Page:
        context = chromium.new_context(**{"viewport": LIGHT_WIDE, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        watched.watch(page)
        page.goto(house.url + path)
        if key:
            try:
                sign_in(page, key)
            except TimeoutError as exc:
                raise AssertionError(f"no sign-in; unanswered: {watched.unanswered}; {page.content()[-2000:]}") from exc
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert watched.errors == []
    assert watched.foreign == []


def sign_in(page: Page, key: str = ADMIN_KEY) -> None:
    """Type the key and wait for the overview."""
    page.fill("input[name=key]", key)
    page.click("button[type=submit]")
    page.wait_for_selector("header.top")


def violations(page: Page) -> list[str]:
    """Return what axe-core finds wrong with a page, each with its places."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run({resultTypes: ['violations']})")
    return [f"{one['id']}: {json.dumps([node['target'] for node in one['nodes']])}" for one in found["violations"]]
