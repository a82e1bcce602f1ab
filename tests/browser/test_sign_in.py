"""Sign-in, sessions, and who is refused, in a real browser."""

from __future__ import annotations

import http.server
import threading

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage, sign_in
from tests.browser.house import House
from tests.fakes.running_api import ADMIN_KEY

pytestmark = pytest.mark.slow


def test_first_visit_says_what_to_type_and_a_wrong_key_is_refused(open_page: OpenPage) -> None:
    page = open_page(key="")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert "BOUCHET_ADMIN_KEY" in page.inner_text("main") and "bouchet open" in page.inner_text("main")
    page.fill("input[name=key]", "guess")
    page.click("button[type=submit]")
    expect(page.get_by_role("alert")).to_contain_text("not BOUCHET_ADMIN_KEY")
    sign_in(page)
    expect(page.get_by_role("heading", name="Deployments")).to_be_visible()
    # a reload needs no key: the session is a cookie that scripts cannot read
    page.reload()
    expect(page.get_by_role("heading", name="Deployments")).to_be_visible()
    assert page.evaluate("document.cookie") == ""


def test_one_time_link_opens_once(open_page: OpenPage, house: House) -> None:
    answer = httpx.post(f"{house.url}/v1/session/link", headers={"x-api-key": ADMIN_KEY})
    page = open_page(answer.json()["path"], key="")
    expect(page.get_by_role("heading", name="Deployments")).to_be_visible()
    assert "link" not in page.url
    thief = open_page(answer.json()["path"], key="")
    expect(thief.get_by_role("alert")).to_contain_text("used before")
    expect(thief.get_by_role("heading", name="Sign in")).to_be_visible()


def test_signed_out_page_asks_for_the_key_again(open_page: OpenPage) -> None:
    page = open_page()
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.get_by_role("heading", name="Deployments")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    # the other tab of the same browser finds out at its next request
    other.goto(other.url + "#keys")
    expect(other.get_by_role("alert")).to_contain_text("session has ended")


def test_page_of_another_port_cannot_use_the_session(open_page: OpenPage, house: House) -> None:
    page = open_page()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    foreign = page.context.new_page()
    foreign.goto(f"http://127.0.0.1:{server.server_address[1]}/")
    tries = """async (url) => {
        const found = [];
        for (const [method, path] of [["GET", "/v1/status"], ["POST", "/v1/deployments"], ["DELETE", "/v1/session"]]) {
            const answer = await fetch(url + path, {method, credentials: "include", mode: "no-cors"}).catch(() => null);
            found.push(answer === null ? "failed" : answer.type);
        }
        return found;
    }"""
    assert set(foreign.evaluate(tries, house.url)) <= {"failed", "opaque"}
    framed = """(url) => new Promise((done) => {
        const frame = document.createElement("iframe");
        frame.src = url;
        frame.onload = () => done(frame.contentDocument === null || frame.contentDocument.body.innerText === "");
        document.body.append(frame);
    })"""
    assert foreign.evaluate(framed, house.url), "no other page shows the dashboard in a frame"
    server.shutdown()
    server.server_close()
    # nothing of it had an effect
    page.reload()
    expect(page.get_by_role("heading", name="Deployments")).to_be_visible()
    assert len(house.store.live()) == 4
