"""LiteLLM's callback: sets the job's key and the token limit on what LiteLLM sends, and notes why a call failed.

Only this file, litellm.py and litellm_gemini.py know LiteLLM.
"""

from __future__ import annotations

from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from bouchet_proxy.dialects.tokens import clamp_tokens
from bouchet_proxy.errors import timed_out, unreachable
from bouchet_proxy.upstream_request import current_request

from .litellm import READ_TIMEOUT_S

# exception classes of the HTTP libraries, by name: the connection failed before there was a response
_CONNECT_ERRORS = {
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
_TIMEOUTS = {"ReadTimeout", "ServerTimeoutError", "SocketTimeoutError", "Timeout", "TimeoutError"}


class RequestHook(CustomLogger):  # type: ignore[misc]  # the library is not typed
    """Reads the request of the running task; a call that LiteLLM makes for itself is left alone."""

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> dict[str, Any] | None:
        """Change the call after LiteLLM has chosen the slot and translated the dialect, before it sends."""
        request = current_request.get()
        if request is None:
            return None
        changed = {**clamp_tokens(kwargs, request.route.window), "api_key": request.key}
        if request.route.attached:
            # LiteLLM keeps connections by address, and the slot may lead to another server next, with another key
            changed["extra_headers"] = {**(kwargs.get("extra_headers") or {}), "Connection": "close"}
        return changed

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> None:
        """Note that the server could not be reached; its own errors are read from LiteLLM's error body."""
        request = current_request.get()
        if request is None:
            return
        names = _exception_names(original_exception)
        if names & _CONNECT_ERRORS:
            request.error = unreachable(request.route.alias)
        elif names & _TIMEOUTS:
            request.error = timed_out(request.route.alias, READ_TIMEOUT_S)


def _exception_names(exc: BaseException | None) -> set[str]:
    """Return the class names of an exception and of its causes."""
    names: set[str] = set()
    while exc is not None and type(exc).__name__ not in names:
        names.add(type(exc).__name__)
        exc = exc.__cause__ or exc.__context__
    return names


request_hook = RequestHook()
