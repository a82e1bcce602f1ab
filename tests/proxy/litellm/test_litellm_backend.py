"""The contract over the proxy as its container runs it: everything through LiteLLM, then with the direct backend."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from bouchet_core.deployments import Phase
from bouchet_core.deployments.attached import ApiDialect, AttachedServer, attached_job_name
from bouchet_core.keys import ApiKey, attach_secret, seal_attached_key, sha256_of

from tests.proxy.backends.contract import BackendContract
from tests.proxy.client import (
    CHAT,
    HTTP,
    MESSAGES,
    anthropic_events,
    anthropic_text,
    chat_body,
    chat_chunks,
    chat_text,
    post,
)
from tests.proxy.environment import (
    KEY,
    SERVING_SECRET,
    ProxyEnvironment,
    RunningProxy,
    make_deployment,
    run_proxy_process,
)
from tests.service.model_server import ModelServer, serving
from tests.waiting import wait_for

# of a colleague's server
MODEL, SECRET_KEY = "centre/Big-Model", "sk-of-a-colleague_0123456789"

# LiteLLM is loaded by the first request that needs it
LOADED_WITHIN_S = 240.0
# MiB that the proxy may hold after all requests of the contract
MAX_RESIDENT_MIB = 400


@pytest.fixture(scope="module", params=[False, True], ids=["litellm", "direct"])
def proxy(environment: ProxyEnvironment, request: pytest.FixtureRequest) -> Iterator[RunningProxy]:
    with run_proxy_process(environment, direct=request.param) as proxy:
        yield proxy


class TestLiteLLMBackend(BackendContract):
    def test_fields_that_only_vllm_knows_reach_it(self, proxy: RunningProxy) -> None:
        later = {"name": "later", "input_schema": {"type": "object"}, "defer_loading": True}
        tools = [{"name": "now", "input_schema": {"type": "object"}}, later]
        assert post(proxy, MESSAGES, chat_body("SAY[ok]", tools=tools)).status_code == 200
        head = proxy.environment.vllm.last_body["chat_template_kwargs"]["tools"]
        assert [tool["function"]["name"] for tool in head] == ["now"]
        secret = f"key-of-bob-{proxy.url[-5:]}"
        holder = ApiKey(name=secret, sha256=sha256_of(secret), ending="test", created_at=datetime.now(UTC))
        proxy.environment.store.api_keys.add(holder)
        headers = {"x-api-key": secret}
        wait_for(lambda: HTTP.get(f"{proxy.url}/v1/models", headers=headers).status_code == 200)
        for path in (MESSAGES, CHAT):
            assert HTTP.post(proxy.url + path, json=chat_body("x"), headers=headers).status_code == 200
            assert proxy.environment.vllm.last_body["cache_salt"], path

    def test_resident_memory_stays_below_the_limit(self, proxy: RunningProxy) -> None:
        pages = int(Path(f"/proc/{proxy.pid}/statm").read_text().split()[1])
        assert pages * 4 / 1024 <= MAX_RESIDENT_MIB


def is_answered(proxy: RunningProxy, path: str, model: str) -> bool:
    """Return whether a first request is answered; with the direct backend it waits while LiteLLM is loaded."""
    try:
        return post(proxy, path, chat_body("ping", model=model)).status_code == 200
    except httpx.ReadTimeout:
        return False


@pytest.mark.parametrize("dialects", [("openai",), ("openai", "anthropic")], ids=["chats alone", "both dialects"])
@pytest.mark.parametrize("path", [MESSAGES, CHAT])
def test_attached_server_answers_with_its_own_key_and_name(
    proxy: RunningProxy, path: str, dialects: tuple[ApiDialect, ...]
) -> None:
    environment, name = proxy.environment, f"theirs-{len(dialects)}-{path.rpartition('/')[2]}"
    server = ModelServer([{"id": MODEL}], key=SECRET_KEY, has_messages="anthropic" in dialects)
    record = make_deployment(name, MODEL, slot=1)
    job_name = attached_job_name(record.id)
    sealed = seal_attached_key(attach_secret(SERVING_SECRET), job_name, SECRET_KEY)
    # each is another server, behind one slot after the other
    job = record.jobs[0].model_copy(update={"name": job_name, "proves": False, "sealed_key": sealed})
    attached = AttachedServer(model=MODEL, dialects=dialects, has_key=True)
    with serving(server, environment.slot_base_port + 1):
        environment.store.create(record.model_copy(update={"attached": attached, "jobs": (job,)}))
        try:
            wait_for(lambda: is_answered(proxy, path, name), LOADED_WITHIN_S)
            answer = post(proxy, path, chat_body("a b c", model=name)).json()
            text = answer["content"][0]["text"] if path == MESSAGES else answer["choices"][0]["message"]["content"]
            assert text == "a b c"
            if path == CHAT or "anthropic" not in dialects:
                # as Claude Code asks; the adapter makes Anthropic's events of OpenAI's
                stream = post(proxy, path, chat_body("d e f", model=name, stream=True))
                assert stream.status_code == 200
                is_chat = path == CHAT
                # the counts that the proxy asks for come last, without a choice
                chunks = [chunk for chunk in chat_chunks(stream) if chunk["choices"]] if is_chat else []
                text = chat_text(chunks) if is_chat else anthropic_text(anthropic_events(stream))
                assert text == "d e f"
        finally:
            environment.move(record.id, Phase.ENDED)
    assert server.keys() == {f"Bearer {SECRET_KEY}"}
    assert {body["model"] for body in server.generations()} == {MODEL}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_request_at_a_lost_node_ends_soon_after_its_job(proxy: RunningProxy, stream: bool) -> None:
    """The node takes the request and is silent from then on; a read timeout would be half an hour."""
    environment, name = proxy.environment, f"lost-{stream}"
    record = make_deployment(name, MODEL, slot=1)
    job = record.jobs[0].model_copy(update={"proves": False})
    with socket.create_server(("127.0.0.1", environment.slot_base_port + 1)) as silent:
        record = environment.store.create(record.model_copy(update={"jobs": (job,)}))
        url = f"{proxy.url}/v1/models/{name}"
        wait_for(lambda: HTTP.get(url, headers={"x-api-key": KEY}).status_code == 200)
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(post, proxy, CHAT, chat_body("x", model=name, stream=stream))
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(1 << 16).startswith(b"POST ")
                environment.move(record.id, Phase.ENDED)
                answer = asking.result(60)
    assert answer.status_code >= 500 or b"error" in answer.content, answer.content
