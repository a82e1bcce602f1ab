"""What an OpenAI request may contain when it reaches vLLM. Pure; never changes the body it is given."""

from __future__ import annotations

from typing import Any

from bouchet_core.deployments import Traits

from .anthropic import NO_IMAGES
from .thinking import settle_openai
from .token_limits import Body, clamp_tokens, default_tokens


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What the dialect and vLLM know. The rest is dropped: some of it would steer the library that carries the request.
SAMPLING_FIELDS = _words(
    "model stream stream_options temperature top_p top_k min_p n seed stop user logprobs logit_bias frequency_penalty "
    "presence_penalty repetition_penalty length_penalty max_tokens min_tokens stop_token_ids ignore_eos bad_words "
    "response_format skip_special_tokens spaces_between_special_tokens include_stop_str_in_output structured_outputs "
    "truncate_prompt_tokens allowed_token_ids echo add_special_tokens return_token_ids"
)
CHAT_FIELDS = SAMPLING_FIELDS | _words(
    "messages max_completion_tokens top_logprobs tools tool_choice parallel_tool_calls reasoning_effort "
    "include_reasoning chat_template_kwargs documents add_generation_prompt continue_final_message"
)
COMPLETION_FIELDS = SAMPLING_FIELDS | {"prompt", "suffix"}
EMBEDDING_FIELDS = frozenset(("model", "input", "encoding_format", "dimensions", "user"))


def prepare_chat(body: Body, window: int | None, traits: Traits) -> Body:
    """A `/v1/chat/completions` body as vLLM takes it."""
    kept = _counted(_kept(body, CHAT_FIELDS))
    kept = clamp_tokens(default_tokens(kept, "max_tokens", traits.max_output, window), window)
    if not kept.get("tools"):
        kept = {key: value for key, value in kept.items() if key not in ("tools", "tool_choice", "parallel_tool_calls")}
    messages = kept.get("messages")
    if isinstance(messages, list) and not traits.vision:
        kept = {**kept, "messages": [_text_only(message) for message in messages]}
    return settle_openai(kept, traits)


def prepare_completion(body: Body, window: int | None) -> Body:
    """A `/v1/completions` body as vLLM takes it."""
    return clamp_tokens(_counted(_kept(body, COMPLETION_FIELDS)), window)


def prepare_embeddings(body: Body) -> Body:
    """A `/v1/embeddings` body."""
    return _kept(body, EMBEDDING_FIELDS)


def wants_usage(body: Body) -> bool:
    """Whether the client asked for the counts at the end of its stream."""
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _counted(body: Body) -> Body:
    """The body with the counts asked for where it streams: usage and limits are kept by them."""
    if body.get("stream") is not True or wants_usage(body):
        return body
    options = body.get("stream_options")
    return {**body, "stream_options": {**(options if isinstance(options, dict) else {}), "include_usage": True}}


def _kept(body: Body, fields: frozenset[str]) -> Body:
    return {key: value for key, value in body.items() if key in fields and value is not None}


def _text_only(message: Any) -> Any:
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return message
    return {**message, "content": [_part(part) for part in content]}


def _part(part: Any) -> Any:
    if isinstance(part, dict) and part.get("type") in ("image_url", "input_image", "image"):
        return {"type": "text", "text": NO_IMAGES}
    return part
