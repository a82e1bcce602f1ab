"""What goes wrong on the client's side is answered in the client's own dialect, with what to do."""

from __future__ import annotations

import json

import anthropic
import httpx
import openai
import pytest

from tests.stack.conftest import SMALL
from tests.stack.harness import ENV_FILE, Stack

HELLO = [{"role": "user", "content": "hello"}]


def test_wrong_key_is_anthropic_401(stack: Stack) -> None:
    with (
        anthropic.Anthropic(base_url=stack.proxy_url, api_key="wrong", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        client.messages.create(model=SMALL, max_tokens=5, messages=[{"role": "user", "content": "hello"}])
    body = caught.value.body
    assert isinstance(body, dict) and body["type"] == "error" and body["error"]["type"] == "authentication_error"


def test_wrong_key_is_openai_401(stack: Stack) -> None:
    with (
        openai.OpenAI(base_url=f"{stack.proxy_url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match=r"\.env"),
    ):
        client.chat.completions.create(model=SMALL, max_tokens=5, messages=[{"role": "user", "content": "hello"}])


@pytest.mark.parametrize("path", ["/v1/deployments", "/v1/tunnel", "/v1/models", "/v1/deployments/x/logs"])
def test_api_without_key_is_401(stack: Stack, path: str) -> None:
    answer = httpx.get(stack.api_url + path, headers={"Authorization": "Bearer wrong"}, timeout=10)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"


def test_unknown_model_lists_served_and_catalog_models(stack: Stack) -> None:
    with stack.proxy() as proxy:
        answer = proxy.post("/v1/messages", json={"model": "gpt-9", "max_tokens": 5, "messages": HELLO})
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"
    words = answer.json()["error"]["message"]
    assert SMALL in words and "bouchet-qwen3-coder-next" in words


def test_model_not_running_names_launch_command(stack: Stack) -> None:
    with stack.proxy() as proxy:
        answer = proxy.post("/v1/messages", json={"model": "bouchet-qwen3-32b", "max_tokens": 5, "messages": HELLO})
    assert answer.status_code in (404, 503, 529)
    assert "bouchet launch" in answer.json()["error"]["message"]


def test_launch_unknown_model_suggests_nearest(stack: Stack) -> None:
    done = stack.bouchet("launch", "Qwen/Qwen3-32", "--no-wait")
    assert done.status != 0
    assert "Qwen/Qwen3-32B" in done.stderr and "Traceback" not in done.output


def test_launch_taken_name_names_deployment(stack: Stack) -> None:
    done = stack.bouchet("launch", SMALL, "--no-wait")
    assert done.status != 0
    assert stack.deployment(SMALL)["id"] in done.stderr


def test_launch_without_weights_ends(stack: Stack) -> None:
    done = stack.bouchet("launch", "Qwen/Qwen2.5-1.5B-Instruct", "--partition", "gpu_h200", "--no-wait", "--json")
    assert done.status == 0, done.output
    record = stack.wait_for_phase(json.loads(done.stdout)["id"], "ended", timeout_s=180)
    assert record["ending"] == "failed"
    assert "download" in record["reason"], record["reason"]


def test_make_env_typo_names_line(stack: Stack) -> None:
    broken = ENV_FILE.with_name(".env.typotest")
    broken.write_text(ENV_FILE.read_text() + "\nPROXI_PORT=4000\n")
    broken.chmod(0o600)
    try:
        done = stack.make("up", COMPOSE_PROJECT_NAME="bouchet-typotest", BOUCHET_ENV_FILE=broken.name)
        assert done.status != 0
        assert "PROXI_PORT" in done.output and "PROXY_PORT" in done.output and broken.name in done.output
        assert "Traceback" not in done.output
    finally:
        broken.unlink()


def test_command_without_stack_names_next_step() -> None:
    nowhere = Stack(1, 1)
    done = nowhere.bouchet("status", BOUCHET_API_URL="http://127.0.0.1:1", BOUCHET_ADMIN_KEY="x" * 40)
    assert done.status != 0
    assert "make up" in done.stderr and "Traceback" not in done.output
