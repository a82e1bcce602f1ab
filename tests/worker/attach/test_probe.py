"""What a server's list of models may contain, and which model is meant."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest
from bouchet_core.deployments.attached import ModelNotServedError, NoModelServerError, ServerUnreachableError
from bouchet_worker.attach import probe
from bouchet_worker.attach.probe import AttachedClient, ServedModel, ServerReport, parse_models
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import free_port
from tests.service.model_server import ModelServer, make_certificate, serving

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["data", "id", "max_model_len", "meta", "n_ctx", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"id": "org/M", "max_model_len": 4096}, ServedModel("org/M", 4096)),
        ({"id": "m.gguf", "meta": {"n_ctx": 8192, "n_ctx_train": 32768}}, ServedModel("m.gguf", 8192)),
        ({"id": "m"}, ServedModel("m")),
        ({"id": "m", "max_model_len": True}, ServedModel("m")),
        ({"id": "m", "max_model_len": -5}, ServedModel("m")),
        ({"id": "m", "max_model_len": "4096"}, ServedModel("m")),
    ],
)
def test_model_of_list_has_its_window_where_the_server_says_it(entry: object, expected: ServedModel) -> None:
    assert parse_models({"data": [entry]}) == (expected,)


@pytest.mark.parametrize("name", ["", "x" * 201, "two\nlines", "\x1b[31mred", "mödel", 7, None, ["m"]])
def test_model_without_a_usable_name_is_left_out(name: object) -> None:
    assert parse_models({"data": [{"id": name}, {"id": "good"}]}) == (ServedModel("good"),)


@given(body=JSON)
def test_parse_models_takes_any_json(body: object) -> None:
    for model in parse_models(body):
        assert model.id.isprintable() and model.id.isascii() and (model.window is None or model.window > 0)


def test_last_of_thousands_of_models_is_found() -> None:
    report = ServerReport(parse_models({"data": [{"id": f"m{n}"} for n in range(5000)]}))
    assert report.model("m4999").id == "m4999"
    with pytest.raises(ModelNotServedError, match="m7 and 4992 more"):
        report.model(None)


def test_list_of_models_without_end_is_no_list() -> None:
    port = free_port()
    with serving(ModelServer([{"id": f"a-model-{n}"} for n in range(60_000)]), port):
        client = AttachedClient(f"http://127.0.0.1:{port}", "")
        with client, pytest.raises(NoModelServerError, match="GET /v1/models returned more than 1 MiB"):
            client.models()


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n", id="body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx-padding: ", id="headers"),
        pytest.param(b"HTTP/1.1", id="status line"),
    ],
)
def test_server_that_sends_single_bytes_for_ever_is_given_up(beginning: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PROBE_TIMEOUT_S", 0.5)
    port, gone = free_port(), threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            connection.sendall(beginning)
            while not gone.wait(0.05):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=drip)
        thread.start()
        try:
            client = AttachedClient(f"http://127.0.0.1:{port}", "")
            with client, pytest.raises(ServerUnreachableError, match="no whole answer"):
                client.models()
        finally:
            gone.set()
            thread.join()


def test_tls_handshake_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers like no HTTP server is asked for TLS, and sends the bytes of a long handshake one by one."""
    monkeypatch.setattr(probe, "PROBE_TIMEOUT_S", 0.5)
    port, gone = free_port(), threading.Event()

    def answer() -> None:
        for beginning in (b"\x15\x03\x01 no HTTP\r\n\r\n", b"\x16\x03\x03\x40\x00"):
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(beginning)
                while beginning[0] == 0x16 and not gone.wait(0.05):
                    connection.sendall(b"\x02")

    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            client = AttachedClient(f"http://127.0.0.1:{port}", "")
            with client, pytest.raises(ServerUnreachableError, match="does not answer as an HTTP server"):
                client.models()
        finally:
            gone.set()
            thread.join()


def test_model_is_found_by_name_in_any_case_or_alone() -> None:
    two = ServerReport((ServedModel("Org/One"), ServedModel("two")))
    assert two.model("org/one").id == "Org/One"
    assert ServerReport((ServedModel("only"),)).model(None).id == "only"
    for report, wanted in ((two, None), (two, "three")):
        with pytest.raises(ModelNotServedError, match="Org/One, two"):
            report.model(wanted)


def test_server_with_tls_is_distinguished_from_one_that_serves_no_models(tmp_path: Path) -> None:
    server, ports = ModelServer([{"id": "m"}]), (free_port(), free_port())
    page = ModelServer([], page="<h1>Jupyter</h1>")
    with serving(server, ports[0], make_certificate(tmp_path)), serving(page, ports[1]):
        for port, words in zip(ports, ("speaks TLS", "no list of models"), strict=True):
            client = AttachedClient(f"http://127.0.0.1:{port}", "key")
            with client, pytest.raises(NoModelServerError, match=words):
                client.report()
    assert server.asked == []
