"""Browsers: preflights, and which pages may read a response."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bouchet_proxy.browsers import Browsers, parse_origins

from tests.proxy.client import HTTP, MESSAGES, OWNER, chat_body, error_of
from tests.proxy.environment import ProxyEnvironment, RunningProxy, run_app

PAGE, OTHER = "http://localhost:3000", "https://elsewhere.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-api-key"}


@pytest.fixture(scope="module")
def open_proxy(environment: ProxyEnvironment) -> Iterator[RunningProxy]:
    """Run a proxy that one page may use."""
    with run_app(environment, browser_origins=parse_origins(PAGE)) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", []),
        (" , ", []),
        ("http://localhost:3000", ["http://localhost:3000"]),
        ("HTTPS://A.example/, http://[::1]:80", ["https://a.example", "http://[::1]"]),
        ("http://a:8080,http://a:8080", ["http://a:8080"]),
    ],
)
def test_parse_origins_writes_them_as_browsers_do(text: str, origins: list[str]) -> None:
    assert parse_origins(text) == frozenset(origins)


@pytest.mark.parametrize("text", ["*", "localhost:3000", "http://a/path", "file:///x", "http://", "http://u@a", "null"])
def test_parse_origins_refuses_what_is_no_origin(text: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        parse_origins(text)


def test_no_page_may_use_the_proxy_by_default(proxy: RunningProxy) -> None:
    response = HTTP.options(proxy.url + MESSAGES, headers={"origin": PAGE, **PREFLIGHT})
    assert response.status_code == 403 and "BROWSER_ORIGINS" in error_of(response)["message"]
    assert "access-control-allow-origin" not in response.headers


def test_preflight_of_an_allowed_page_needs_no_key(open_proxy: RunningProxy) -> None:
    asked = {"origin": PAGE, **PREFLIGHT, "access-control-request-private-network": "true"}
    response = HTTP.options(open_proxy.url + MESSAGES, headers=asked)
    assert response.status_code == 200 and response.headers["access-control-allow-origin"] == PAGE
    assert response.headers["access-control-allow-headers"] == "content-type,x-api-key"
    assert "POST" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-private-network"] == "true"


def test_response_is_readable_for_the_allowed_page_only(open_proxy: RunningProxy) -> None:
    for origin, allowed in ((PAGE, True), (OTHER, False)):
        for headers in (OWNER, {}):
            response = HTTP.post(open_proxy.url + MESSAGES, json=chat_body("x"), headers={**headers, "origin": origin})
            assert (response.headers.get("access-control-allow-origin") == origin) is allowed
    assert HTTP.options(open_proxy.url + MESSAGES, headers={"origin": OTHER, **PREFLIGHT}).status_code == 403


def test_options_without_a_page_names_the_methods(proxy: RunningProxy) -> None:
    assert "POST" in HTTP.options(proxy.url + MESSAGES).headers["allow"]


def test_requested_headers_are_limited() -> None:
    headers = [(b"origin", PAGE.encode()), (b"access-control-request-headers", b"a" * 5000)]
    answered = dict(Browsers([PAGE]).preflight({"headers": headers}, "POST, OPTIONS"))
    assert b"access-control-allow-headers" not in answered
