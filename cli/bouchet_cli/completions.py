"""Answers of the proxy (/v1/chat/completions), piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from .errors import CommandError, NotReadyError, UnreachableError
from .settings import Settings

CONNECT_TIMEOUT_S = 3.0
# a long prompt on a busy GPU, before its first token
SILENCE_S = 600.0
# not ready yet, in the words of OpenAI's and Anthropic's dialects
NOT_READY = (503, 529)


class Completions:
    """The proxy, with the key."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.proxy_url
        self._http = httpx.Client(
            base_url=self._url,
            headers={"Authorization": f"Bearer {settings.key}"},
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_TIMEOUT_S),
            trust_env=False,
        )

    def close(self) -> None:
        """Closes the pooled connections."""
        self._http.close()

    def stream(self, request: dict[str, Any]) -> Iterator[str]:
        """The answer's text as it comes. Raises CommandError subclasses."""
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=request) as response:
                if not response.is_success:
                    response.read()
                    raise error_of(response)
                yield from pieces(response.iter_lines())
        except httpx.ConnectError as exc:
            raise UnreachableError(f"nothing answers at {self._url}; `make up` starts the stack") from exc
        except httpx.HTTPError as exc:
            raise CommandError(f"the answer broke off ({type(exc).__name__}); try again") from exc


def pieces(lines: Iterator[str]) -> Iterator[str]:
    """The text in the chunks of a stream; an error in their midst raises."""
    for line in lines:
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            raise CommandError(_message(chunk))
        for choice in chunk.get("choices") or ():
            if text := (choice.get("delta") or {}).get("content"):
                yield text


def error_of(response: httpx.Response) -> CommandError:
    """What an answer that is no success means."""
    try:
        said = _message(response.json())
    except ValueError:
        said = f"the proxy answered {response.status_code}"
    if response.status_code == 401:
        return UnreachableError("the stack was started with another key than the one in .env; run `make up` again")
    return NotReadyError(said) if response.status_code in NOT_READY else CommandError(said)


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message") or error) if isinstance(error, dict) else str(error or body)
