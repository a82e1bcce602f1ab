"""Error handlers of the application, and the program as a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from bouchet_api.problems import STATUS_BY_KIND, TITLES
from bouchet_core.errors import BouchetError
from bouchet_core.gateway_client import NO_TLS
from fastapi import FastAPI
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.conftest import RedisServer, free_port
from tests.fakes.gateway_api import TOKEN
from tests.fakes.running_api import ADMIN_KEY, CATALOG, SITE
from tests.waiting import wait_for

QWEN = "Qwen/Qwen3-32B"
PROBLEM = "application/problem+json"


def kinds(error: type[BouchetError]) -> set[str]:
    """Return the kinds of bouchet_core and bouchet_api; errors of other packages never reach the API as objects."""
    own = {error.kind} if error.__module__.split(".")[0] in ("bouchet_core", "bouchet_api") else set()
    return own.union(*(kinds(child) for child in error.__subclasses__()))


def test_every_error_kind_has_a_status_with_a_title() -> None:
    assert kinds(BouchetError) == set(STATUS_BY_KIND)
    assert set(STATUS_BY_KIND.values()) <= set(TITLES)


async def test_unknown_path_and_method_are_problems(api: httpx.AsyncClient) -> None:
    path = await api.get("/v1/nowhere")
    assert (path.status_code, path.json()["kind"]) == (404, "not_found")
    method = await api.put("/v1/deployments", json={})
    assert (method.status_code, method.json()["kind"]) == (405, "method_not_allowed")
    assert {path.headers["content-type"], method.headers["content-type"]} == {PROBLEM}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/v1/deployments?liv=1", "liv: unknown parameter; did you mean `live`?"),
        ("/v1/downloads?foo=1&limit=3", "foo: unknown parameter; this path takes `limit`"),
        ("/v1/usage?sinc=24h", "sinc: unknown parameter; did you mean `since`?"),
    ],
)
async def test_unknown_query_parameter_is_refused_with_those_that_there_are(
    api: httpx.AsyncClient, path: str, message: str
) -> None:
    answer = await api.get(path)
    assert (answer.status_code, answer.json()["kind"]) == (422, "bad_request")
    assert answer.json()["detail"] == message


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/deployments", "/v1/models", "/v1/events", "/openapi.json"])
async def test_head_is_answered_as_get_without_a_body(api: httpx.AsyncClient, path: str) -> None:
    answer = await api.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert (await api.head("/v1/nowhere")).status_code == 404
    assert (await api.head(path, headers={"authorization": "", "x-api-key": ""})).status_code in (200, 401)


async def test_unexpected_error_shows_no_traceback(app: FastAPI, api: httpx.AsyncClient) -> None:
    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("secret detail")

    answer = await api.get("/broken")
    assert (answer.status_code, answer.json()["kind"]) == (500, "internal")
    assert "secret" not in answer.text


async def test_unreachable_redis_is_503(api: httpx.AsyncClient, redis_server: RedisServer) -> None:
    redis_server.stop()
    answer = await api.post("/v1/deployments", json={"model": QWEN})
    assert (answer.status_code, answer.json()["kind"]) == (503, "store_unavailable")
    assert answer.headers["retry-after"] == "5"
    assert (await api.get("/healthz")).status_code == 503


FIELDS = st.sampled_from(["model", "name", "gpus", "nodes", "time", "partition", "quant", "max_len", "serve_as", "x"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=30)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.sampled_from([QWEN, "fp8", "opus", "06:00:00"])
BODIES = st.dictionaries(FIELDS | st.text(st.characters(), max_size=10), VALUES, max_size=6) | VALUES


@examples(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES, raw=st.booleans())
def test_random_body_never_gives_500(app: FastAPI, body: Any, raw: bool) -> None:
    content = repr(body).encode("utf-8", "replace") if raw else json.dumps(body).encode()

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post("/v1/deployments", content=content, headers={"x-api-key": ADMIN_KEY})

    answer = asyncio.run(send())
    assert answer.status_code in (202, 400, 404, 409, 413, 422), answer.text
    assert answer.status_code == 202 or answer.json()["detail"]


@pytest.mark.slow
def test_program_stops_on_sigterm_with_open_streams(tmp_path: Path, redis_server: RedisServer) -> None:
    secrets = {
        "admin_key": ADMIN_KEY,
        "chat_key": "chat",
        "attach_secret": "attach",
        "redis_password": redis_server.password,
        "gateway_token": TOKEN,
    }
    for name, value in secrets.items():
        (tmp_path / name).write_text(value)
    (tmp_path / "models.yaml").write_text(CATALOG)
    (tmp_path / "site.yaml").write_text(SITE)
    port = free_port()
    environment = {
        **os.environ,
        "SECRETS_DIR": str(tmp_path),
        "BOUCHET_SITE_FILE": str(tmp_path / "site.yaml"),
        "BOUCHET_CATALOG": str(tmp_path / "models.yaml"),
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis_server.port),
        "GATEWAY_URL": "http://127.0.0.1:1",
        "API_PORT": str(port),
        "LEDGER_DIR": str(tmp_path),
    }
    program = [sys.executable, "-m", "bouchet_api"]
    with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(
                base_url=url, headers={"x-api-key": ADMIN_KEY}, timeout=60, trust_env=False, verify=NO_TLS
            ) as client:
                wait_for(lambda: is_healthy(client), 60.0)
                with client.stream("GET", "/v1/events") as response:
                    assert response.status_code == 200
                    process.send_signal(signal.SIGTERM)
                    output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode in (0, -signal.SIGTERM)
    assert ADMIN_KEY not in output.decode()
    assert "Traceback" not in output.decode(), output.decode()


def is_healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_program_without_secrets_names_the_missing_file(tmp_path: Path) -> None:
    environment = {**os.environ, "SECRETS_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "bouchet_api"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr and "make up" in done.stderr
    assert "Traceback" not in done.stderr
