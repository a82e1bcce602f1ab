"""The LiteLLM backend with a small ASGI app in LiteLLM's place."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any

from bouchet_core.deployments import Traits
from bouchet_proxy.api_keys import Caller
from bouchet_proxy.asgi import Receive, Scope, Send, send_json
from bouchet_proxy.backends.litellm import LiteLLMBackend, litellm_config
from bouchet_proxy.dialects.endpoints import Dialect, Endpoint
from bouchet_proxy.routing.table import Route
from bouchet_proxy.settings import ProxySettings
from bouchet_proxy.streams.response_writer import ResponseWriter
from bouchet_proxy.upstream_request import UpstreamRequest, current_request
from bouchet_proxy.usage.request import ActiveRequests, RequestUsage
from pydantic import SecretStr

ROUTE = Route("d1", "tiny", "org/Tiny", 3, "job", 4096, Traits())
SCOPE: Scope = {"type": "http", "path": "/x", "headers": [(b"x-api-key", b"of the client")], "state": {}}


class FakeLiteLLM:
    """Answers with one chat completion, and records the request."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.scope: Scope = {}
        self.body: dict[str, Any] = {}
        self.current: UpstreamRequest | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.current = scope, current_request.get()
        self.body = json.loads((await receive())["body"])
        error = {"error": {"message": "litellm.APIError: Hosted_vllmException - no"}}
        await send_json(send, self.status, {"model": "slot-3/tiny", "choices": []} if self.status == 200 else error)


async def send_through(app: FakeLiteLLM) -> tuple[UpstreamRequest, list[MutableMapping[str, Any]]]:
    """Send one chat request; return it, and the ASGI messages that its client gets."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def count_tokens(request: UpstreamRequest) -> int | None:
        return None

    writer = ResponseWriter(Dialect.OPENAI, Endpoint.CHAT, receive, send)
    usage = RequestUsage(Caller("owner"), Endpoint.CHAT, ActiveRequests(), route=ROUTE)
    request = UpstreamRequest(
        endpoint=Endpoint.CHAT,
        route=ROUTE,
        model_name="org/Tiny",
        body={"messages": []},
        key="key-of-the-job",
        usage=usage,
        writer=writer,
        count_tokens=count_tokens,
    )
    await LiteLLMBackend(app, "master").send(request, SCOPE)
    writer.close()
    return request, sent


async def test_send_addresses_the_slot_with_the_master_key() -> None:
    app = FakeLiteLLM()
    request, _ = await send_through(app)
    headers = dict(app.scope["headers"])
    assert (app.scope["path"], app.body) == (Endpoint.CHAT, {"messages": [], "model": "slot-3/tiny"})
    assert headers[b"authorization"] == b"Bearer master" and b"x-api-key" not in headers
    assert "state" not in app.scope
    assert app.current is request and current_request.get() is None


async def test_send_relays_the_response_with_the_clients_model_name() -> None:
    request, (head, body) = await send_through(FakeLiteLLM())
    assert head["status"] == 200 and json.loads(body["body"])["model"] == "org/Tiny"
    assert request.usage.finished and request.usage.status == 200


async def test_send_translates_an_error() -> None:
    request, (head, body) = await send_through(FakeLiteLLM(status=500))
    assert head["status"] == 500 and json.loads(body["body"])["error"]["message"] == "no"
    assert request.usage.error == "http_500"


SETTINGS = ProxySettings(
    api_key=SecretStr("k"), serving_secret=SecretStr("s"), redis_password=SecretStr("r"), slot_count=2
)


def test_litellm_config_has_an_entry_for_each_slot() -> None:
    models = litellm_config(SETTINGS)["model_list"]
    assert [(m["model_name"], m["litellm_params"]["api_base"]) for m in models[:2]] == [
        ("slot-0/*", "http://gateway:8100/v1"),
        ("slot-1/*", "http://gateway:8101/v1"),
    ]


def test_server_without_messages_is_sent_chats() -> None:
    entries = {entry["model_name"]: entry for entry in litellm_config(SETTINGS)["model_list"]}
    assert entries["slot-1/*"]["model_info"] == {"supported_endpoints": ["/v1/messages"]}
    assert "model_info" not in entries["chat-1/*"]
    assert entries["chat-1/*"]["litellm_params"] == entries["slot-1/*"]["litellm_params"]
