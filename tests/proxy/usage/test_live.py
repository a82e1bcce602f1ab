"""What the dashboard sees of the proxy: open requests while it is looked at, errors, and its own key for chats."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from bouchet_core.deployments import Phase
from bouchet_core.keys import chat_key
from bouchet_core.live import LiveRequest, LiveRequests, SeenError
from bouchet_proxy.api_keys import Caller
from bouchet_proxy.dialects.endpoints import Endpoint
from bouchet_proxy.settings import ProxySettings
from bouchet_proxy.usage.live import LiveReporter, OpenRequests
from bouchet_proxy.usage.request import ActiveRequests, RequestUsage

from setup.files.container_files import derive
from tests.conftest import RedisServer
from tests.proxy.client import CHAT, HTTP, MESSAGES, chat_body, error_of, post, wait_for_status
from tests.proxy.environment import ALIAS, KEY, RunningProxy, make_deployment
from tests.waiting import wait_for


@pytest.fixture(scope="module", autouse=True)
def deployment(proxy: RunningProxy) -> Iterator[None]:
    record = proxy.environment.store.create(make_deployment())
    wait_for_status(proxy, 200)
    yield
    proxy.environment.move(record.id, Phase.ENDED)


def test_root_says_what_it_is_and_where_the_dashboard_is(proxy: RunningProxy) -> None:
    answer = HTTP.get(proxy.url + "/")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    assert "proxy of bouchet-llm" in answer.text and ProxySettings.model_fields["dashboard_url"].default in answer.text


def test_key_of_the_dashboard_chats_and_opens_nothing_of_the_owner(proxy: RunningProxy) -> None:
    key = {"Authorization": f"Bearer {chat_key(KEY)}"}
    assert chat_key(KEY) == derive(KEY, "chat of the dashboard"), "setup derives the key that the API gets"
    answer = HTTP.post(proxy.url + CHAT, json=chat_body("SAY[hello]"), headers=key)
    assert answer.status_code == 200, answer.text
    for path in ("/metrics", "/deployments/x/v1/models"):
        assert HTTP.get(proxy.url + path, headers=key).status_code in (403, 404)
    wrong = HTTP.post(proxy.url + CHAT, json=chat_body("x"), headers={"Authorization": f"Bearer {chat_key('other')}"})
    assert wrong.status_code == 401


def test_failed_request_is_listed_as_its_client_saw_it(proxy: RunningProxy, open_requests: OpenRequests) -> None:
    seen = error_of(post(proxy, MESSAGES, chat_body("x", model="<b>no-such-model</b>")))

    def listed() -> list[SeenError]:
        return [one for one in open_requests.report(time.time()).errors if one.message == seen["message"]]

    # once the request has ended, a moment after its client has the answer
    wait_for(listed)
    error = listed()[0]
    assert (error.status, error.model, error.key) == (404, "<b>no-such-model</b>", "owner")


def test_names_keys_and_paths_that_clients_make_up_are_no_labels(proxy: RunningProxy) -> None:
    def ask(number: int) -> list[int]:
        made_up = f"made-up-{number}"
        key = {"x-api-key": f"sk-bouchet-{made_up}", "user-agent": made_up, "x-session-id": made_up}
        return [
            post(proxy, MESSAGES, chat_body("x", model=made_up)).status_code,
            HTTP.post(proxy.url + CHAT, json=chat_body("x"), headers=key).status_code,
            HTTP.post(f"{proxy.url}/v1/{made_up}", json={}, headers=key).status_code,
            HTTP.request(made_up.upper(), proxy.url + MESSAGES, headers={"x-api-key": KEY}).status_code,
        ]

    def series() -> set[str]:
        lines = HTTP.get(f"{proxy.url}/metrics", headers={"x-api-key": KEY}).text.splitlines()
        return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}

    assert ask(0)[:3] == [404, 401, 401]
    wait_for(lambda: any('status="404"' in one for one in series()))
    before = series()
    for number in range(1, 100):
        ask(number)
    assert series() == before and not any("made-up" in one for one in before)


def test_stream_is_listed_while_it_is_open(proxy: RunningProxy, open_requests: OpenRequests) -> None:
    body = chat_body(f"SAY[{'word ' * 60}] PACE[0.02]", stream=True, max_tokens=4000)
    headers = {"x-api-key": KEY, "user-agent": "claude-cli/2.1.330", "x-claude-code-session-id": "secret-session"}
    rows: list[LiveRequest] = []
    with HTTP.stream("POST", proxy.url + MESSAGES, json=body, headers=headers) as response:
        for _ in response.iter_bytes():
            rows += open_requests.report(time.time()).requests
    row = rows[0]
    assert (row.key, row.agent, row.model) == ("owner", "claude-code", ALIAS)
    assert row.conversation and "secret" not in row.conversation and row.phase in ("sent", "decode")
    assert rows[-1].tokens >= rows[0].tokens
    wait_for(lambda: open_requests.report(time.time()).requests == ())


@pytest.fixture
def open_requests(proxy: RunningProxy) -> OpenRequests:
    assert proxy.open_requests is not None
    return proxy.open_requests


@pytest.fixture
def reporter(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveReporter]:
    monkeypatch.setattr("bouchet_proxy.usage.live.ASK_S", 0.05)
    monkeypatch.setattr("bouchet_proxy.usage.live.WRITE_S", 0.05)
    store = redis_server.store("proxy")
    reporter = LiveReporter(store, OpenRequests("secret"))
    reporter.start()
    yield reporter
    reporter.stop()
    store.close()


def test_nothing_is_written_while_no_page_is_open(redis_server: RedisServer, reporter: LiveReporter) -> None:
    api = redis_server.store("api")
    time.sleep(0.4)
    assert api.live_view.requests() is None
    api.live_view.watch()
    wait_for(lambda: isinstance(api.live_view.requests(), LiveRequests), 10)
    api.close()


def test_many_requests_are_counted_and_the_list_is_bounded() -> None:
    requests = OpenRequests("secret")
    usages = [RequestUsage(Caller("lab"), Endpoint.CHAT, ActiveRequests(), model_name="m" * 999) for _ in range(250)]
    with ExitStack() as opened:
        for usage in usages:
            opened.enter_context(requests.track(usage))
        report = requests.report(time.time())
    assert requests.report(time.time()).requests == ()
    assert (len(report.requests), report.more) == (200, 50)
    assert len(report.model_dump_json(exclude_defaults=True)) < 200_000
