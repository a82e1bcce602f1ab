"""What a person may put into a path: whatever it is, the answer is about the request and never a fault of the API."""

from __future__ import annotations

import re
from urllib.parse import quote

import httpx
import pytest
from bouchet_api.dependencies import AppState
from fastapi import FastAPI

ODD = (
    "a b",
    "a'; echo x",
    "../../etc/passwd",
    "a/b/c",
    "-x",
    "--all",
    "%2e%2e",
    "\x00",
    "\n",
    "ä",
    "\U0001f600",
    "*",
    "0",
    "-1",
    "9" * 40,
    "x" * 5000,
    "{}",
)


def requests_with_a_parameter(app: FastAPI) -> list[tuple[str, str]]:
    """Return method and path of every operation whose path has a parameter."""
    paths = app.openapi()["paths"]
    return [(method, path) for path, methods in paths.items() if "{" in path for method in methods]


@pytest.mark.parametrize("value", ODD, ids=repr)
async def test_odd_path_parameter_is_the_clients_error(
    api: httpx.AsyncClient, app: FastAPI, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # no worker runs here: a request that is right waits for one in vain
    monkeypatch.setattr("bouchet_api.routes.images.WAIT_S", 0.1)
    tried = requests_with_a_parameter(app)
    assert len(tried) > 10
    for method, path in tried:
        url = re.sub(r"\{[a-z_]+(:path)?\}", quote(value, safe=""), path)
        answer = await api.request(method, url, json={} if method in ("post", "put") else None, timeout=30)
        is_right = answer.status_code == 503 and answer.json()["kind"] == "worker_silent"
        assert is_right or 400 <= answer.status_code < 500, (method, url[:200], answer.status_code, answer.text[:200])
        assert answer.headers["content-type"].startswith("application/problem+json"), (method, url[:200])


async def test_failed_task_with_an_odd_id_does_not_break_the_list(api: httpx.AsyncClient, state: AppState) -> None:
    connection = state.store.queue_connection()
    connection.zadd("rq:failed:tasks", {"a b": 9e12})
    connection.close()
    assert (await api.get("/v1/tasks/failed")).json() == {"tasks": []}
