"""HTTP requests to the API and the proxy: JSON in and out."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class HttpResponse:
    """Status and parsed body; status 0 if there was no answer, with the reason under `detail`."""

    status: int
    body: Any

    @property
    def detail(self) -> str:
        """The message of an error response, in any of the dialects."""
        if not isinstance(self.body, dict):
            return f"status {self.status}: {str(self.body)[:300]}"
        error = self.body.get("error")
        message = error.get("message") if isinstance(error, dict) else None
        return str(self.body.get("detail") or message or self.body.get("title") or self.body)


@dataclass(frozen=True)
class HttpClient:
    """One of the two published ports."""

    url: str
    key: str = field(repr=False)

    def ask(self, method: str, path: str, body: object = None, timeout_s: float = 10) -> HttpResponse:
        """Send one request. An error response is returned, not raised."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
        )
        # Straight to 127.0.0.1, whatever http_proxy says.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout_s) as response:
                return HttpResponse(response.status, _parse(response.read()))
        except urllib.error.HTTPError as exc:
            return HttpResponse(exc.code, _parse(exc.read()))
        except (OSError, http.client.HTTPException) as exc:
            return HttpResponse(0, {"detail": f"no answer ({exc})"})


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode(errors="replace")
