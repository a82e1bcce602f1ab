"""What the hub says of a model, read by the oldest Python over HTTP."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import free_port
from tests.fakes.hub_server import TOKEN, Hub, HubBehavior, HubModel, make_model, running_hub
from tests.remote.compute_node import OLDEST, SCRIPTS

CONFIG = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "long": list(range(1000))}


def model_with(**files: bytes) -> HubModel:
    made = make_model(5000)
    return HubModel({**made.files, **{name.replace("__", "."): content for name, content in files.items()}}, made.lfs)


@pytest.fixture
def hub() -> Iterator[Hub]:
    tokenizer = json.dumps({"chat_template": "{{ tools }}"}).encode()
    whole = model_with(config__json=json.dumps(CONFIG).encode(), tokenizer_config__json=tokenizer)
    gated = make_model(10)
    gated.gated = True
    plain = make_model(10)
    without = HubModel({"README.md": b"adapters"}, frozenset())
    with running_hub(Hub({"org/whole": whole, "org/gated": gated, "org/bare": without, "org/plain": plain})) as hub:
        yield hub


def inspect(endpoint: str, model: str, **more: Any) -> dict[str, Any]:
    request = {"endpoint": endpoint, "model": model, "revision": "main", "token": None, "proxy": None, **more}
    argv = [OLDEST, str(SCRIPTS / "inspect_hub.py")]
    done = subprocess.run(argv, input=json.dumps(request), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_model_is_described_by_its_files(hub: Hub) -> None:
    found = inspect(hub.url, "org/whole")
    assert found["commit"] == hub.models["org/whole"].commit and found["gated"] is False
    assert dict(found["files"])["model-00001-of-00002.safetensors"] == 2501
    assert found["template"] == "{{ tools }}"
    assert found["config"] == {name: value for name, value in CONFIG.items() if name != "long"}


@pytest.mark.parametrize(
    ("model", "more", "problem", "part"),
    [
        ("org/absent", {}, "unknown_model", "check the spelling"),
        ("org/absent", {"token": TOKEN}, "unknown_model", "check the spelling"),
        ("org/gated", {}, "gated", "accept its terms"),
        ("org/gated", {"token": "hf-of-another-user"}, "gated", "accept its terms"),
        ("org/whole", {"revision": "nope"}, "unknown_revision", "no revision nope"),
        ("org/bare", {}, "no_config", "no config.json"),
    ],
)
def test_model_that_cannot_be_read_is_a_sentence(
    hub: Hub, model: str, more: dict[str, Any], problem: str, part: str
) -> None:
    found = inspect(hub.url, model, **more)
    assert found["problem"] == problem and part in found["detail"] and model in found["detail"]


@pytest.mark.parametrize(
    "tokenizer", [b"[1]", b"null", b'"x"', b"{", b"\xff", b'{"chat_template": {"default": "{{ tools }}"}}']
)
def test_odd_tokenizer_configuration_is_passed_over(tokenizer: bytes) -> None:
    model = model_with(config__json=json.dumps(CONFIG).encode(), tokenizer_config__json=tokenizer)
    with running_hub(Hub({"org/odd": model})) as hub:
        assert inspect(hub.url, "org/odd")["template"] == ("{{ tools }}" if b"default" in tokenizer else "")


@pytest.mark.parametrize("config", [b"[]", b"", b"{", b"[" * 100_000, b'"x"', b"\xff\xfe"])
def test_config_that_is_no_object_is_a_sentence(config: bytes) -> None:
    with running_hub(Hub({"org/odd": model_with(config__json=config)})) as hub:
        assert inspect(hub.url, "org/odd")["problem"] == "no_config"


def test_deep_config_is_cut_off() -> None:
    deep = b'{"a":' * 900 + b"1" + b"}" * 900
    with running_hub(Hub({"org/odd": model_with(config__json=deep)})) as hub:
        assert json.dumps(inspect(hub.url, "org/odd")["config"]).count("{") < 100


@pytest.mark.parametrize("sent", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"])
def test_hub_that_speaks_something_else_is_a_sentence(sent: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=answer_once, args=(server, sent))
        answering.start()
        found = inspect(f"http://127.0.0.1:{server.getsockname()[1]}", "org/whole")
        answering.join()
    assert found["problem"] == "hub_unreachable"


def answer_once(server: socket.socket, sent: bytes) -> None:
    """Answer the first request with these bytes, and close."""
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(sent)


def test_gated_model_is_described_with_a_token(hub: Hub) -> None:
    assert inspect(hub.url, "org/gated", token=TOKEN)["gated"] is True


def test_hub_without_answer_is_a_sentence(hub: Hub) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert inspect(nowhere, "org/whole")["problem"] == "hub_unreachable"
    through = inspect("http://hub.invalid", "org/whole", proxy=nowhere)
    assert through["problem"] == "hub_unreachable" and "download_proxy" in through["detail"]
    hub.behavior = HubBehavior(failing=1)
    assert "answered 503" in inspect(hub.url, "org/whole")["detail"]
