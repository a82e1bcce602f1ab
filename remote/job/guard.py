"""Authentication for every path of vLLM's server: `vllm serve ... --middleware guard.Guard`. Runs in the container.

vLLM's own --api-key protects /v1 only; /invocations, /tokenize and /metrics would answer anyone on the cluster.
While the drain file exists, /health returns 503 with `x-bouchet-state: draining`, and new requests are refused; running
ones finish.

A client that sends /health a nonce (`x-bouchet-nonce`) gets a proof (`x-bouchet-proof`) that only a holder of this
job's key can compute, for this port only. So a program that listens where this server was before gets neither the key
nor a prompt. A warning of idle_watch.sh is returned there too, as `x-bouchet-warning`.

Requests that have an id are answered through resumable.py, which keeps their answers when connections are lost.
cut_responses.py marks what vLLM aborts and calls complete.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import sys

from cut_responses import AbortMarker
from kept_answer import Message, Receive, Send
from resumable import PREFIX, Answers, App, stream_id

OPEN_PATHS = frozenset({"/health"})
DRAINING = (b"x-bouchet-state", b"draining")
POLICY_VIOLATION = 1008
NONCE = re.compile(rb"[0-9a-f]{32}")


class Guard:
    """ASGI middleware. The key is VLLM_API_KEY; without one only /health answers."""

    def __init__(self, app: App) -> None:
        key = os.environ.get("VLLM_API_KEY", "")
        self._key = key.encode()
        self._wanted = f"Bearer {key}".encode() if key else None
        self._drain_file = os.environ.get("BOUCHET_DRAIN_FILE", "")
        self._app = AbortMarker(app, self._drain_file, sys.argv)
        self._warning_file = os.path.join(os.path.dirname(self._drain_file), "warning")
        self._answers = Answers.from_environment()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        is_open = scope["type"] == "http" and scope.get("path") in OPEN_PATHS
        if is_open:
            send = _with_headers(send, [*self._proof(scope), *self._warning()])
        if not is_open and not self._has_key(scope):
            await _refuse(scope, send, 401, "the API key is missing or wrong", (b"www-authenticate", b"Bearer"))
        elif scope["type"] == "http" and scope["path"].startswith(PREFIX):
            # also while draining: what is finishing may lose its connection, too
            await self._answers.serve(scope, receive, send)
        elif self._is_draining():
            await _refuse(scope, send, 503, "this server is shutting down and takes no new requests", DRAINING)
        elif name := stream_id(scope):
            await self._answers.run(name, self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _proof(self, scope: Message) -> list[tuple[bytes, bytes]]:
        """Return the proof for the client's nonce, where there is one."""
        nonces = [value for name, value in scope.get("headers", ()) if name == b"x-bouchet-nonce"]
        if len(nonces) != 1 or not NONCE.fullmatch(nonces[0]) or not self._key:
            return []
        server = scope.get("server")
        # a UNIX socket has no port
        message = b"bouchet-proof %d %s" % ((server[1] if server else None) or 0, nonces[0])
        return [(b"x-bouchet-proof", hmac.new(self._key, message, hashlib.sha256).hexdigest().encode())]

    def _warning(self) -> list[tuple[bytes, bytes]]:
        """Return the warning that idle_watch.sh has left for people."""
        try:
            with open(self._warning_file, "rb") as source:
                text = source.read(500).strip()
        except OSError:
            return []
        return [(b"x-bouchet-warning", text)] if text.isascii() and b"\n" not in text else []

    def _is_draining(self) -> bool:
        # one stat of a node-local file: microseconds
        return bool(self._drain_file) and os.path.exists(self._drain_file)

    def _has_key(self, scope: Message) -> bool:
        if self._wanted is None:
            return False
        given = [value for name, value in scope.get("headers", ()) if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._wanted)


def _with_headers(send: Send, more: list[tuple[bytes, bytes]]) -> Send:
    """Return a `send` that adds these headers."""

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return send_more


async def _refuse(scope: Message, send: Send, status: int, message: str, header: tuple[bytes, bytes]) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": message})
        return
    body = json.dumps({"error": {"message": message, "type": "guard", "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), header]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
