"""GatewayClient: requests as the gateway expects them, and its errors by kind."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from bouchet_core import errors
from bouchet_core.gateway_client import NO_TLS, GatewayClient
from bouchet_core.tunnel import TunnelState

from tests.fakes.gateway_api import TOKEN, FakeGateway

Handler = Callable[[httpx.Request], httpx.Response]


def client_of(handler: Handler) -> GatewayClient:
    return GatewayClient("http://gateway", "token", httpx.MockTransport(handler))


def answering(status: int, body: Any) -> Handler:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda request: httpx.Response(status, content=content)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("tunnel_down", errors.TunnelDownError),
        ("human_needed", errors.HumanNeededError),
        ("command_timeout", errors.RemoteTimeoutError),
        ("file_missing", errors.RemoteFileMissingError),
        ("remote_refused", errors.RemoteFileError),
        ("not_allowed", errors.NotAllowedError),
        ("stale_prompt", errors.StalePromptError),
        ("host_key_not_trusted", errors.HostKeyNotTrustedError),
        ("something_new", errors.GatewayError),
    ],
)
def test_error_has_class_of_kind_and_detail(kind: str, expected: type[errors.GatewayError]) -> None:
    handler = answering(502, {"kind": kind, "detail": "because"})
    with client_of(handler) as client, pytest.raises(expected) as caught:
        client.connect()
    assert (type(caught.value), str(caught.value)) == (expected, "because")


@pytest.mark.parametrize("body", [b"Internal Server Error", {}])
def test_error_without_detail_names_http_status(body: Any) -> None:
    with client_of(answering(500, body)) as client, pytest.raises(errors.GatewayError, match="HTTP 500"):
        client.connect()


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (httpx.ConnectError("refused"), errors.GatewayUnreachableError),
        (httpx.ConnectTimeout("slow"), errors.GatewayUnreachableError),
        (httpx.ReadTimeout("slow"), errors.RemoteTimeoutError),
        (httpx.RemoteProtocolError("closed"), errors.RemoteTimeoutError),
    ],
)
def test_transport_error_is_mapped(exception: Exception, expected: type[errors.GatewayError]) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise exception

    with client_of(fail) as client, pytest.raises(expected):
        client.connect()


def test_run_nonzero_status_raises_with_stderr() -> None:
    result = {"exit_status": 3, "stdout": "", "stderr": "no such partition\n", "truncated": False}
    with client_of(answering(200, result)) as client, pytest.raises(errors.RemoteCommandError) as caught:
        client.run(["sbatch", "x"])
    assert (caught.value.argv, caught.value.exit_status) == (("sbatch", "x"), 3)
    assert "no such partition" in str(caught.value)


def test_status_of_other_version_is_gateway_unreachable() -> None:
    with client_of(answering(200, {"state": "sideways"})) as client, pytest.raises(errors.GatewayUnreachableError):
        client.status()


def test_requests_carry_token_and_body() -> None:
    seen: list[tuple[str, str, Any]] = []

    def record(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer token"
        seen.append((request.method, request.url.path, json.loads(request.content) if request.content else None))
        return httpx.Response(202)

    with client_of(record) as client:
        client.answer("p", ["a", "b"])
        client.trust("SHA256:x")
        client.forget("[login]:2222")
        client.connect()
    assert seen == [
        ("POST", "/v1/answer", {"prompt_id": "p", "responses": ["a", "b"]}),
        ("POST", "/v1/trust", {"fingerprint": "SHA256:x"}),
        ("POST", "/v1/forget", {"place": "[login]:2222"}),
        ("POST", "/v1/connect", None),
    ]


def test_client_reads_no_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    with GatewayClient("http://gateway", "token"):
        pass


def test_client_trusts_no_authority() -> None:
    assert NO_TLS.verify_mode is ssl.CERT_REQUIRED and NO_TLS.check_hostname and NO_TLS.get_ca_certs() == []


def test_client_uses_no_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with FakeGateway() as gateway, GatewayClient(gateway.url, TOKEN) as client:
        assert client.status().state is TunnelState.UP
