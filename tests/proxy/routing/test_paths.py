"""Paths of other servers: each is refused with what to do instead, in the client's dialect."""

from __future__ import annotations

import pytest
from bouchet_proxy.errors import method_not_allowed, unknown_path
from bouchet_proxy.routing.paths import base_url_problem, instead_of

# what the SDKs of OpenAI and Anthropic, Ollama's and Azure's clients ask for -> a word of the answer
OTHERS = {
    "/v1/responses/resp_1": "stored",
    "/v1/responses/resp_1/cancel": "stored",
    "/v1/responses/resp_1/input_items": "stored",
    "/responses/resp_1": "stored",
    "/v1/responses/compact": "summary",
    "/v1/chat/completions/chatcmpl-1": "stored",
    "/v1/chat/completions/chatcmpl-1/messages": "stored",
    "/v1/conversations": "all messages",
    "/v1/conversations/conv_1/items": "all messages",
    "/v1/threads/runs": "all messages",
    "/v1/sessions": "all messages",
    "/v1/messages/batches": "one by one",
    "/v1/messages/batches/b/results": "one by one",
    "/v1/batches": "one by one",
    "/v1/files": "into the request",
    "/v1/files/f/content": "into the request",
    "/v1/vector_stores/vs_1/search": "into the request",
    "/v1/audio/transcriptions": "another kind",
    "/v1/images/generations": "another kind",
    "/v1/moderations": "another kind",
    "/v1/realtime/sessions": "another kind",
    "/v1/fine_tuning/jobs": "not trained",
    "/v1/organization/usage/completions": "bouchet usage",
    "/v1/organizations/me": "bouchet keys",
    "/v1/rerank": "/passthrough/MODEL",
    "/tokenize": "/passthrough/MODEL",
    "/v1beta/models/m:embedContent": "/v1/embeddings",
    "/v1beta/models/m:batchEmbedContents": "/v1/embeddings",
    "/v1beta/models/m:batchGenerateContent": "one by one",
    "/v1beta/cachedContents": "at the beginning",
    "/v1beta/interactions": "all messages",
    "/v1/complete": "/v1/messages",
    "/v1/edits": "/v1/chat/completions",
    "/api/chat": "Ollama",
    "/api/tags": "Ollama",
    "/openai/deployments/m/chat/completions": "Azure",
    "/v1/engines/m/completions": "older API",
}
BASE_URLS = (
    "/anthropic/v1/messages",
    "/proxy/v1/chat/completions",
    "/openai/v1/chat/completions",
    "/v1/chat/completions/chat/completions",
    "/v1/chat/completions/models",
    "/v1/messages/v1/messages",
    "/v1/messages/v1/messages/count_tokens",
    "/v1/responses/responses",
    "/v1/responses/v1/responses",
)
SERVED = ("/v1/messages", "/v1/messages/count_tokens", "/v1/completions", "/v1/embeddings", "/v1/models", "/api/hello")


@pytest.mark.parametrize("path", OTHERS)
def test_path_of_another_server_is_refused_with_what_to_do(path: str) -> None:
    message = unknown_path("POST", path).message
    assert OTHERS[path] in message and path in message and "this proxy serves" in message


@pytest.mark.parametrize("path", SERVED)
def test_path_that_is_served_has_nothing_instead(path: str) -> None:
    assert instead_of(path) == ""
    assert "; " not in method_not_allowed("GET", path, "POST").message


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_list_of_what_is_not_stored_is_refused_with_the_reason(path: str) -> None:
    message = method_not_allowed("GET", path, "POST").message
    assert "takes POST" in message and "not stored" in message
    assert "stored" not in method_not_allowed("PUT", path, "POST").message


@pytest.mark.parametrize("path", BASE_URLS)
def test_path_before_a_served_one_is_a_matter_of_the_base_url(path: str) -> None:
    assert "base URL" in base_url_problem(path) and "base URL" in unknown_path("POST", path).message
    assert base_url_problem("/v1/unheard") == instead_of("/v1/unheard") == ""
