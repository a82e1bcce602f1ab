"""Paths that clients know from other servers and that are not served here: what to do instead. Pure."""

from __future__ import annotations

import re

SERVED_PATHS = (
    "POST /v1/messages, /v1/messages/count_tokens, /v1/chat/completions, /v1/completions, /v1/responses, "
    "/v1/responses/input_tokens, /v1/embeddings and /v1beta/models/MODEL:generateContent, :streamGenerateContent and "
    ":countTokens, and GET /v1/models and /v1beta/models"
)
# how the paths end that clients add to their base URL
_ENDS = ("messages", "messages/count_tokens", "chat/completions", "completions", "responses", "embeddings")
_BASE_URL = "the base URL has a path too many: it is http://HOST:PORT, with /v1 for OpenAI's clients"
_RESPONSES = (
    "responses are not stored, so none can be fetched, cancelled or deleted later: read the answer to POST "
    "/v1/responses, and send the whole conversation with each request (in the client: store=false)"
)
_CHATS = "chats are not stored, so none can be listed, fetched or changed later: keep the answers of the requests"
_OTHER_KINDS = (
    "images, sound, video and moderation are of models of another kind; those that run here generate text, or embed it"
)

# a whole path where a base URL belongs: the client adds its own to it
_DOUBLED = re.compile(
    r"/(?:messages|chat/completions|completions|responses|embeddings)(?:/v1)?"
    r"/(?:messages(?:/count_tokens)?|chat/completions|completions|responses|embeddings|models)$"
)

# what a path has behind its version, and what to do instead; the first that matches
_INSTEAD = tuple(
    (re.compile(pattern, re.I), sentence)
    for pattern, sentence in (
        (
            r"^/responses/compact$",
            "a conversation is compacted by its client here: have the model write a summary, and go on with it",
        ),
        (r"^/responses\b", _RESPONSES),
        (r"^/chat/completions\b", _CHATS),
        (
            r"^/(?:conversations|interactions|threads|assistants|chatkit|agents|sessions|memory_stores)\b",
            "conversations are not stored: send all messages with each request to /v1/responses, /v1/chat/completions "
            "or /v1/messages",
        ),
        (
            r"^/(?:messages/)?batches\b|:batchGenerateContent$",
            "batches are not served: send the requests one by one, many at a time if you like; the model's server "
            "works on them together",
        ),
        (
            r"^/(?:files|uploads|vector_stores|containers|skills)\b",
            "files are not stored: put their text, or an image for a model that reads images, into the request itself",
        ),
        (r"^/(?:images|audio|videos|moderations|realtime|live|content_provenance_checks)\b", _OTHER_KINDS),
        (r"^/(?:fine_tuning|fine-tunes|evals|graders)\b", "models are served here, not trained or rated"),
        (
            r"^/(?:organizations?|projects|usage|dashboard/billing|credits)\b",
            "keys, limits and use are shown by `bouchet keys` and `bouchet usage`",
        ),
        (
            r"^/(?:rerank|score|pooling|classify|tokenize|detokenize|load|version|server_info|ping|invocations)$",
            "paths of vLLM itself are under /passthrough/MODEL, for the owner's key",
        ),
        (r":(?:batch)?embedContents?$", "embeddings are made by POST /v1/embeddings"),
        (
            r"^/cachedContents\b",
            "prompts are cached by the model's server itself: send what many requests have in common at the beginning",
        ),
        (r"^/complete$", "this is Anthropic's older API: send the conversation to /v1/messages"),
        (r"^/edits$", "this is OpenAI's older API: send the text to /v1/chat/completions"),
        (
            r"^/api/(?:chat|generate|tags|show|ps|embed|embeddings|version|pull)$",
            "this is Ollama's API: choose the provider `OpenAI-compatible` in the client, with the base URL "
            "http://HOST:PORT/v1",
        ),
        (
            r"^/(?:openai/deployments|engines|deployments)/",
            "this is a path of Azure's, or of OpenAI's older API: choose the plain OpenAI provider in the client, with "
            "the base URL http://HOST:PORT/v1",
        ),
    )
)
_VERSION = re.compile(r"^/v1(?:beta|alpha)?(?=/)")


def instead_of(path: str) -> str:
    """Return what to do instead of asking for what other servers have there, as a clause; '' where none is known."""
    if _DOUBLED.search(path):
        return ""
    rest = _VERSION.sub("", path)
    return next((sentence for pattern, sentence in _INSTEAD if pattern.search(rest)), "")


def base_url_problem(path: str) -> str:
    """Return what is probably wrong with the client's base URL, where a path is not served; '' for nothing."""
    has_served_end = any(path.endswith(f"/{end}") for end in _ENDS)
    return (
        _BASE_URL if has_served_end or _DOUBLED.search(path) or ("/v1/" in path and not path.startswith("/v1/")) else ""
    )
