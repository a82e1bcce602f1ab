"""Responses that vLLM cuts short when it ends. Part of guard.py, in the container.

When a request is ended with the server, vLLM's other endpoints say `abort`, and /v1/responses says `completed`: clients
take a cut answer for the whole one. vLLM aborts what is not done --shutdown-timeout after SIGTERM, and the batch script
makes the drain file right before that signal. So what a response sends from that moment on is its cut end: a stream
gets the comment `: bouchet-aborted` in front of it, a whole response the status 503.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Awaitable, Callable, Sequence

from kept_answer import Message, Receive, Send

App = Callable[[Message, Receive, Send], Awaitable[None]]

PATH, OPTION = "/v1/responses", "--shutdown-timeout"
ABORTED = b": bouchet-aborted\n\n"


class AbortMarker:
    """Marks the ends of responses that vLLM aborts. arguments: vLLM's command line."""

    def __init__(self, app: App, drain_file: str, arguments: Sequence[str]) -> None:
        self._app, self._drain_file = app, drain_file
        self._timeout_s = shutdown_timeout_s(arguments)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("path") == PATH and self._drain_file:
            send = self._marking(send)
        await self._app(scope, receive, send)

    def _marking(self, send: Send) -> Send:
        is_stream = is_marked = False

        async def send_marked(message: Message) -> None:
            nonlocal is_stream, is_marked
            is_start = message["type"] == "http.response.start"
            if not is_marked and self._is_aborting():
                is_marked = is_start or is_stream
                if is_start:
                    message = {**message, "status": 503}
                elif is_stream:
                    message = {**message, "body": ABORTED + message.get("body", b"")}
            if is_start:
                is_stream = any(
                    name.lower() == b"content-type" and value.startswith(b"text/event-stream")
                    for name, value in message.get("headers", ())
                )
            await send(message)

        return send_marked

    def _is_aborting(self) -> bool:
        # one stat of a node-local file: microseconds
        try:
            since = os.stat(self._drain_file).st_mtime
        except OSError:
            return False
        return time.time() - since >= self._timeout_s


def shutdown_timeout_s(arguments: Sequence[str]) -> float:
    """Return how long vLLM lets requests finish: the last value on its command line, 0 as vLLM has it without one."""
    found = 0.0
    for argument, value in itertools.pairwise(arguments):
        if argument == OPTION and value.isdigit():
            found = float(value)
    return found
