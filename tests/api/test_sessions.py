"""Sign-in of browsers: sessions, one-time links, and requests from other pages."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest
from bouchet_api.dashboard.sessions import (
    LINK_S,
    SESSION_S,
    TOKEN_HEADER,
    LinkRefusedError,
    SessionBook,
    SignInRefusedError,
    cookie_name,
    is_from_this_site,
)
from bouchet_api.dashboard.sign_outs import SignOuts
from bouchet_core.deployments import Phase
from bouchet_core.store import Store
from starlette.datastructures import Headers

from tests.fakes.running_api import ADMIN_KEY

HERE, ELSEWHERE = "http://127.0.0.1", "http://127.0.0.1:8888"
NO_KEY = {"Authorization": ""}


class Clock:
    """Unix time that the test sets."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def new_book(store: Store, key: str = "key", clock: Callable[[], float] = time.time) -> SessionBook:
    """Return the sessions of an API that has just been started."""
    return SessionBook(key, SignOuts(store.sign_outs, clock), clock)


def test_cookie_of_the_key_is_a_session_for_a_week(store: Store) -> None:
    clock = Clock()
    book = new_book(store, clock=clock)
    cookie = book.open_with_key(" key\n")
    found = book.check(cookie)
    assert found is not None and found.expires_at == int(clock.now) + SESSION_S and len(found.token) == 64
    # another process with the same key knows it, one with another key does not
    assert new_book(store, clock=clock).check(cookie) == found
    assert new_book(store, "other", clock).check(cookie) is None
    clock.now += SESSION_S
    assert book.check(cookie) is None


@pytest.mark.parametrize("key", ["", "ke", "key2", "KEY", "k\x00ey", "\ud800", "ä" * 400])
def test_wrong_key_opens_no_session(store: Store, key: str) -> None:
    with pytest.raises(SignInRefusedError):
        new_book(store).open_with_key(key)


def test_changed_cookie_is_no_session(store: Store) -> None:
    book = new_book(store)
    cookie = book.open_with_key("key")
    expires, identity, signature = cookie.split(".")
    later = f"{int(expires) + 1}.{identity}.{signature}"
    for wrong in ("", "x", "..", f"{expires}.{identity}.", later, cookie + "0", f"-{cookie}", cookie * 9, "١.a.b"):
        assert book.check(wrong) is None


def test_link_opens_one_session_within_a_minute(store: Store) -> None:
    clock = Clock()
    book = new_book(store, clock=clock)
    code = book.new_link()
    assert book.check(book.open_with_link(code)) is not None
    with pytest.raises(LinkRefusedError, match="used before"):
        book.open_with_link(code)
    late = book.new_link()
    clock.now += LINK_S + 1
    with pytest.raises(LinkRefusedError, match="bouchet open"):
        book.open_with_link(late)
    with pytest.raises(LinkRefusedError):
        book.open_with_link("invented")
    used, unused = book.new_link(), book.new_link()
    book.open_with_link(used)
    again = new_book(store, clock=clock)
    for code in (used, unused):
        with pytest.raises(LinkRefusedError, match="before the API started again"):
            again.open_with_link(code)


def test_links_are_bounded_and_the_newest_works(store: Store) -> None:
    book = new_book(store)
    codes = [book.new_link() for _ in range(500)]
    with pytest.raises(LinkRefusedError):
        book.open_with_link(codes[0])
    assert book.check(book.open_with_link(codes[-1])) is not None


def test_cookie_is_named_by_port() -> None:
    assert cookie_name(Headers({"host": "127.0.0.1:4001"})) == "bouchet_4001"
    assert cookie_name(Headers({"host": "localhost"})) == cookie_name(Headers({"host": "a:b"})) == "bouchet"


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("GET", {}, True),
        ("POST", {}, False),
        ("POST", {"origin": "http://127.0.0.1:4001"}, True),
        ("POST", {"origin": "http://127.0.0.1:8888"}, False),
        ("POST", {"origin": "http://127.0.0.1"}, False),
        ("POST", {"origin": "null"}, False),
        ("POST", {"sec-fetch-site": "same-origin"}, True),
        ("GET", {"sec-fetch-site": "same-site"}, False),
        ("GET", {"sec-fetch-site": "cross-site"}, False),
        ("GET", {"sec-fetch-site": "none"}, True),
        ("POST", {"sec-fetch-site": "none"}, False),
    ],
)
def test_request_of_another_page_is_not_from_this_site(method: str, headers: dict[str, str], expected: bool) -> None:
    assert is_from_this_site(method, Headers({"host": "127.0.0.1:4001", **headers})) is expected


async def signed_in(api: httpx.AsyncClient) -> str:
    """Sign the client in as a browser and return the token; its key is no longer sent."""
    answer = await api.post("/v1/session", json={"key": ADMIN_KEY}, headers={**NO_KEY, "Origin": HERE})
    assert answer.status_code == 200, answer.text
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and ADMIN_KEY not in answer.text
    return str(answer.json()["token"])


async def test_browser_signs_in_reads_changes_and_signs_out(api: httpx.AsyncClient) -> None:
    assert (await api.get("/v1/session", headers=NO_KEY)).json()["signed_in"] is False
    token = await signed_in(api)
    assert (await api.get("/v1/status", headers=NO_KEY)).status_code == 200
    body = {"model": "bouchet-qwen3-32b"}
    for headers in ({}, {TOKEN_HEADER: "0" * 64}, {TOKEN_HEADER: ""}):
        refused = await api.post("/v1/deployments", json=body, headers={**NO_KEY, "Origin": HERE, **headers})
        assert (refused.status_code, refused.json()["kind"]) == (403, "token_missing")
    made = await api.post("/v1/deployments", json=body, headers={**NO_KEY, "Origin": HERE, TOKEN_HEADER: token})
    assert made.status_code == 202 and made.json()["phase"] == Phase.REQUESTED
    kept = dict(api.cookies)
    left = await api.delete("/v1/session", headers={**NO_KEY, "Origin": HERE, TOKEN_HEADER: token})
    assert left.json()["signed_in"] is False
    # a copy of the cookie is worth nothing either
    api.cookies.update(kept)
    assert (await api.get("/v1/status", headers=NO_KEY)).status_code == 401


async def test_page_of_another_port_cannot_use_the_session(api: httpx.AsyncClient) -> None:
    token = await signed_in(api)
    other_pages = ({"Origin": ELSEWHERE}, {"Sec-Fetch-Site": "same-site"}, {"Origin": HERE, "Sec-Fetch-Site": "cross"})
    requests = [("GET", "/v1/status"), ("POST", "/v1/deployments"), ("POST", "/v1/session"), ("DELETE", "/v1/session")]
    for headers in other_pages:
        for method, path in requests:
            answer = await api.request(method, path, headers={**NO_KEY, TOKEN_HEADER: token, **headers})
            assert (answer.status_code, answer.json()["kind"]) == (403, "foreign_origin")
            assert "dashboard" in answer.json()["detail"]


async def test_wrong_key_and_used_link_are_refused_in_sentences(api: httpx.AsyncClient) -> None:
    path = (await api.post("/v1/session/link")).json()["path"]
    code = path.removeprefix("/#link=")
    headers = {**NO_KEY, "Origin": HERE}
    assert (await api.post("/v1/session", json={"link": code}, headers=headers)).status_code == 200
    again = await api.post("/v1/session", json={"link": code}, headers=headers)
    assert (again.status_code, again.json()["kind"]) == (403, "link_refused")
    wrong = await api.post("/v1/session", json={"key": "guess"}, headers=headers)
    assert (wrong.status_code, wrong.json()["kind"]) == (403, "sign_in_refused") and "guess" not in wrong.text
    for body in ({}, {"key": "a", "link": "b"}, {"key": 3}, {"pin": "x"}):
        assert (await api.post("/v1/session", json=body, headers=headers)).status_code == 422
    # no one makes a link without the key or a session
    api.cookies.clear()
    assert (await api.post("/v1/session/link", headers=headers)).status_code == 401
