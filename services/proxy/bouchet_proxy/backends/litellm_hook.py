"""LiteLLM's callback: puts the job's key and the clamp on what LiteLLM is about to send, and notes why it failed.

One of the two files that know LiteLLM (carrier.py is the other).
"""

from __future__ import annotations

from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from bouchet_proxy.dialects.token_limits import clamp_tokens
from bouchet_proxy.errors import timed_out, unreachable
from bouchet_proxy.upstream_request import current

# exception classes, by name, of the libraries below: the connection failed before there was an answer
_NO_CONNECTION = {
    "ClientConnectorError",
    "ClientOSError",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionRefusedError",
    "ConnectionResetError",
    "ReadError",
    "RemoteProtocolError",
    "ServerDisconnectedError",
    "WriteError",
}
_NO_ANSWER = {"ReadTimeout", "ServerTimeoutError", "SocketTimeoutError", "Timeout", "TimeoutError"}


class ClampHook(CustomLogger):  # type: ignore[misc]  # the library is not typed
    """Reads the exchange of the running task; a call that LiteLLM makes on its own account is left alone."""

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> dict[str, Any] | None:
        """After LiteLLM chose the slot and translated the dialect, before it sends."""
        exchange = current.get()
        if exchange is None:
            return None
        return {**clamp_tokens(kwargs, exchange.route.window), "api_key": exchange.key}

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> None:
        """Says whether the server could not be reached; what it answered is read from LiteLLM's error body."""
        exchange = current.get()
        if exchange is None:
            return
        names = _names(original_exception)
        if names & _NO_CONNECTION:
            exchange.failure = unreachable(exchange.route.alias)
        elif names & _NO_ANSWER:
            exchange.failure = timed_out(exchange.route.alias, 0)


def _names(exc: BaseException | None) -> set[str]:
    """Class names of an exception and of all that led to it."""
    names: set[str] = set()
    while exc is not None and type(exc).__name__ not in names:
        names.add(type(exc).__name__)
        exc = exc.__cause__ or exc.__context__
    return names


clamp_hook = ClampHook()
