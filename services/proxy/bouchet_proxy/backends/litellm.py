"""The LiteLLM backend: requests go through LiteLLM's own ASGI app, in this process.

LiteLLM's configuration never changes: one entry for each of the gateway's slots. The gateway knows where a slot leads,
and the hook (litellm_hook.py) sets the key of the job behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import io
import logging
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, cast

import orjson
import yaml

from bouchet_proxy.asgi import App, Message, Receive, Scope, Send
from bouchet_proxy.dialects.endpoints import Endpoint
from bouchet_proxy.http.resumption import SILENT_S, WATCH_S
from bouchet_proxy.settings import ProxySettings
from bouchet_proxy.upstream_request import Backend, UpstreamRequest, current_request

# seconds without a byte before a request fails; a long prompt on a busy GPU takes minutes
READ_TIMEOUT_S = 1800
WARM_UP = "warm-up"

_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_TELEMETRY": "False",
    "DISABLE_ADMIN_UI": "True",
    "NO_DOCS": "True",
    "NO_REDOC": "True",
}
# LiteLLM would open connections of its own with these
_REMOVED_PREFIXES = ("REDIS_", "DATABASE_", "LITELLM_", "OTEL_", "OPENAI_", "ANTHROPIC_", "HOSTED_VLLM_")
# of `/v1/messages`, which vLLM knows and Anthropic does not
_VLLM_FIELDS = {"chat_template_kwargs": dict, "cache_salt": str}
# they remove `strict` and `additionalProperties` from tools by the name of a key, at any depth: a parameter of that
# name, too. vLLM reads both.
_REMOVERS = ("remove_additional_properties", "remove_strict_from_schema")
_LOGGERS = ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router")
_DEFAULT_ENCODING = "litellm.litellm_core_utils.default_encoding"


def litellm_config(settings: ProxySettings) -> dict[str, Any]:
    """Return LiteLLM's configuration: `slot-3/ALIAS` goes to slot 3 as ALIAS, `chat-3/ALIAS` always as a chat."""
    return {
        "model_list": [
            *(_model_entry(f"slot-{slot}", settings.slot_url(slot)) for slot in range(settings.slot_count)),
            *(_chat_entry(f"chat-{slot}", settings.slot_url(slot)) for slot in range(settings.slot_count)),
            _model_entry(WARM_UP, "http://127.0.0.1:9"),
        ],
        "litellm_settings": {
            "callbacks": ["bouchet_proxy.backends.litellm_hook.request_hook"],
            "drop_params": True,
            # it would send the first four stop strings of a chat, and drop the others without a word
            "disable_stop_sequence_limit": True,
            "num_retries": 0,
            "request_timeout": READ_TIMEOUT_S,
            "telemetry": False,
            # it would keep every chunk of a stream until its end
            "disable_streaming_logging": True,
            "turn_off_message_logging": True,
        },
        "router_settings": {"num_retries": 0, "disable_cooldowns": True, "timeout": READ_TIMEOUT_S},
        "general_settings": {"disable_model_info_refresh": True},
    }


def _chat_entry(name: str, url: str) -> dict[str, Any]:
    """Return an entry for servers without Anthropic's endpoint: LiteLLM's adapter makes chats of messages."""
    return {name: value for name, value in _model_entry(name, url).items() if name != "model_info"}


def _model_entry(name: str, url: str) -> dict[str, Any]:
    return {
        "model_name": f"{name}/*",
        "litellm_params": {
            "model": "hosted_vllm/*",
            "api_base": f"{url}/v1",
            # replaced by the hook with the key of the job behind the slot
            "api_key": "unset",
        },
        # straight to vLLM's own Anthropic endpoint, untranslated
        "model_info": {"supported_endpoints": ["/v1/messages"]},
    }


def import_litellm(**variables: str) -> None:
    """Import LiteLLM, once, so that it logs no request and opens no connection of its own. variables: more for it."""
    if "litellm" in sys.modules:
        return
    for name in [name for name in os.environ if name.startswith(_REMOVED_PREFIXES)]:
        del os.environ[name]
    os.environ.update(_ENVIRONMENT, **variables)
    sys.modules[_DEFAULT_ENCODING] = _byte_encoding()
    importlib.import_module("litellm")
    for name in _LOGGERS:
        # its error messages quote requests
        logging.getLogger(name).setLevel(logging.CRITICAL)


class LiteLLMBackend(Backend):
    """Sends requests through LiteLLM's app."""

    def __init__(self, app: App, master_key: str) -> None:
        self._app, self._authorization = app, b"Bearer " + master_key.encode()

    @classmethod
    def mount(cls, settings: ProxySettings) -> LiteLLMBackend:
        """Import LiteLLM, configured for these settings. Takes seconds and about 200 MB."""
        master_key = f"sk-{secrets.token_urlsafe(32)}"
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
            yaml.safe_dump(litellm_config(settings), file)
        import_litellm(LITELLM_MASTER_KEY=master_key, CONFIG_FILE_PATH=file.name)
        types = importlib.import_module("litellm.types.llms.anthropic")
        # what it forwards is what this type names; the rest it drops without a word
        types.AnthropicMessagesRequestOptionalParams.__annotations__.update(_VLLM_FIELDS)
        chats = importlib.import_module("litellm.llms.hosted_vllm.chat.transformation")
        for name in _REMOVERS:
            assert hasattr(chats, name), f"LiteLLM has no {name} any more: look whether tools still pass unchanged"
            setattr(chats, name, _return_unchanged)
        server = importlib.import_module("litellm.proxy.proxy_server")
        return cls(cast(App, server.app), master_key)

    async def send(self, request: UpstreamRequest, scope: Scope) -> None:
        """Send the request to LiteLLM and relay its response."""
        route = request.route
        body = {**request.body, "model": f"{'chat' if route.translates else 'slot'}-{route.slot}/{route.served_as}"}
        encoded, relay = orjson.dumps(body), _ResponseRelay(request)
        token = current_request.set(request)
        try:
            answering = self._app(
                self._scope(request.endpoint, scope, len(encoded)), _replay(encoded, request.writer.receive), relay
            )
            if not await _finish_unless(relay.is_lost, answering):
                await request.lose()
        finally:
            current_request.reset(token)

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run LiteLLM's ASGI lifespan; startup is complete when the first request will find all modules loaded."""
        with contextlib.ExitStack() as silenced:
            silenced.enter_context(contextlib.redirect_stdout(io.StringIO()))

            async def started(message: Message) -> None:
                if message["type"] == "lifespan.startup.complete":
                    await self._warm_up()
                    # half a million objects that live as long as the process: the garbage collector can skip them
                    gc.collect()
                    gc.freeze()
                silenced.close()
                await send(message)

            await self._app(scope, receive, started)

    async def _warm_up(self) -> None:
        """Send one request to a closed port per dialect: LiteLLM loads many of its modules only then, for seconds."""
        body = {"model": f"{WARM_UP}/x", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
        encoded = orjson.dumps(body)
        base = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http"}
        for endpoint in (Endpoint.MESSAGES, Endpoint.CHAT):
            await self._app(self._scope(endpoint, base, len(encoded)), _replay(encoded, _never), _ignore)

    def _scope(self, endpoint: Endpoint, scope: Scope, length: int) -> Scope:
        headers = [
            (b"host", b"localhost"),
            (b"authorization", self._authorization),
            (b"content-type", b"application/json"),
            (b"content-length", str(length).encode()),
        ]
        path = str(endpoint)
        kept = {key: value for key, value in scope.items() if key not in ("state", "app", "endpoint", "router")}
        return {**kept, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}


async def _finish_unless(is_lost: Callable[[], bool], answering: Awaitable[None]) -> bool:
    """Await an answer; give it up and return False once it is lost."""
    task = asyncio.ensure_future(answering)
    try:
        while not (await asyncio.wait((task,), timeout=WATCH_S))[0]:
            if is_lost():
                return False
        task.result()
        return True
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


def _return_unchanged(value: Any) -> Any:
    return value


def _byte_encoding() -> ModuleType:
    """Build a stub of LiteLLM's default tokenizer, whose vocabulary of 80 MB takes 3 s to load at the first request.

    LiteLLM counts with it only for its own estimates; the counts that clients see are vLLM's.
    """
    tiktoken = importlib.import_module("tiktoken")
    module = ModuleType(_DEFAULT_ENCODING)
    single_bytes = {bytes([value]): value for value in range(256)}
    encoding = tiktoken.Encoding("cl100k_base", pat_str=r"[\s\S]", mergeable_ranks=single_bytes, special_tokens={})
    vars(module)["encoding"] = encoding
    return module


async def _never() -> Message:
    forever: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    return await forever


async def _ignore(message: Message) -> None:
    """Discard a message: an ASGI `send` for responses that are not read."""


class _ResponseRelay:
    """An ASGI `send` that passes the response to an UpstreamRequest."""

    def __init__(self, request: UpstreamRequest) -> None:
        self._request, self._received_at = request, time.monotonic()

    def is_lost(self) -> bool:
        """Return whether nothing more can come: the job has ended, and there is silence since."""
        return not self._request.is_current() and time.monotonic() - self._received_at >= SILENT_S

    async def __call__(self, message: Message) -> None:
        self._received_at = time.monotonic()
        if message["type"] == "http.response.start":
            headers = {key.lower(): value for key, value in message.get("headers", ())}
            content_type = headers.get(b"content-type", b"").decode("latin-1")
            await self._request.start_response(message["status"], content_type)
        elif message["type"] == "http.response.body":
            if message.get("body"):
                await self._request.forward(message["body"])
            if not message.get("more_body", False):
                await self._request.finish()


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return an ASGI `receive` that gives this body, then the messages of the given one."""
    pending = [body]

    async def replay() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replay
