"""Rules for the bodies of OpenAI requests (chat, completions, embeddings, responses) on their way to vLLM. Pure."""

from __future__ import annotations

from typing import Any

from bouchet_core.deployments import Traits

from .anthropic import IMAGE_NOTE, MISSING_TOOLS_NOTE, NO_TOOLS_NOTE
from .thinking import resolve_openai_thinking
from .tokens import Body, clamp_tokens, default_tokens


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What the dialect and vLLM know. All other fields are dropped: some of them would steer LiteLLM.
SAMPLING_FIELDS = _names(
    "model stream stream_options temperature top_p top_k min_p n seed stop user logprobs logit_bias frequency_penalty "
    "presence_penalty repetition_penalty length_penalty max_tokens min_tokens stop_token_ids ignore_eos bad_words "
    "response_format skip_special_tokens spaces_between_special_tokens include_stop_str_in_output structured_outputs "
    "truncate_prompt_tokens allowed_token_ids echo add_special_tokens return_token_ids"
)
CHAT_BODY_FIELDS = SAMPLING_FIELDS | _names(
    "messages max_completion_tokens top_logprobs tools tool_choice parallel_tool_calls reasoning_effort "
    "include_reasoning chat_template_kwargs documents add_generation_prompt continue_final_message"
)
COMPLETION_BODY_FIELDS = SAMPLING_FIELDS | {"prompt", "suffix"}
EMBEDDING_BODY_FIELDS = frozenset(("model", "input", "encoding_format", "dimensions", "user"))
RESPONSES_BODY_FIELDS = _names(
    "model input instructions max_output_tokens temperature top_p stream tools tool_choice parallel_tool_calls text "
    "reasoning user include store truncation"
)
# a tool that the client runs; the others (web_search, code_interpreter, ...) run on OpenAI's servers
CLIENT_TOOL = "function"


def prepare_chat(body: Body, window: int | None, traits: Traits) -> Body:
    """Return a `/v1/chat/completions` body as vLLM accepts it."""
    kept = _request_usage(_keep_fields(body, CHAT_BODY_FIELDS))
    kept = clamp_tokens(default_tokens(kept, "max_tokens", traits.max_output, window), window)
    if not kept.get("tools"):
        kept = {key: value for key, value in kept.items() if key not in ("tools", "tool_choice", "parallel_tool_calls")}
    messages = kept.get("messages")
    if isinstance(messages, list) and not traits.vision:
        kept = {**kept, "messages": [_replace_message_images(message) for message in messages]}
    return resolve_openai_thinking(kept, traits)


def prepare_completion(body: Body, window: int | None) -> Body:
    """Return a `/v1/completions` body as vLLM accepts it."""
    return clamp_tokens(_request_usage(_keep_fields(body, COMPLETION_BODY_FIELDS)), window)


def prepare_embeddings(body: Body) -> Body:
    """Return a `/v1/embeddings` body as vLLM accepts it."""
    return _keep_fields(body, EMBEDDING_BODY_FIELDS)


def wants_usage(body: Body) -> bool:
    """Return whether the client asked for the token counts at the end of its stream."""
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _request_usage(body: Body) -> Body:
    """Return the body with token counts requested where it streams: usage records and rate limits need them."""
    if body.get("stream") is not True or wants_usage(body):
        return body
    options = body.get("stream_options")
    return {**body, "stream_options": {**(options if isinstance(options, dict) else {}), "include_usage": True}}


def _keep_fields(body: Body, fields: frozenset[str]) -> Body:
    return {key: value for key, value in body.items() if key in fields and value is not None}


def _replace_message_images(message: Any) -> Any:
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return message
    return {**message, "content": [_replace_image(part) for part in content]}


def _replace_image(part: Any) -> Any:
    if isinstance(part, dict) and part.get("type") in ("image_url", "input_image", "image"):
        return {"type": "text", "text": IMAGE_NOTE}
    return part


# /v1/responses, which vLLM always serves itself


def prepare_responses(body: Body, window: int | None, traits: Traits) -> Body:
    """Return a `/v1/responses` body as vLLM accepts it."""
    kept = {key: value for key, value in body.items() if key in RESPONSES_BODY_FIELDS and value is not None}
    kept = clamp_tokens(default_tokens(kept, "max_output_tokens", traits.max_output, window), window)
    if traits.thinking in ("none", "always"):
        kept.pop("reasoning", None)
    if isinstance(kept.get("input"), list) and not traits.vision:
        kept["input"] = [_replace_item_images(item) for item in kept["input"]]
    return _keep_client_tools(kept, traits)


def _keep_client_tools(body: Body, traits: Traits) -> Body:
    tools = body.get("tools")
    if not isinstance(tools, list):
        return {key: value for key, value in body.items() if key not in ("tools", "tool_choice")}
    kept = [tool for tool in tools if _is_client_tool(tool)] if traits.tool_parser else []
    missing = [tool for tool in tools if isinstance(tool, dict) and not _is_client_tool(tool)]
    if tools and not traits.tool_parser:
        body = _add_instruction(body, NO_TOOLS_NOTE)
    elif missing:
        names = ", ".join(str(tool.get("name") or tool.get("type")) for tool in missing)
        body = _add_instruction(body, MISSING_TOOLS_NOTE.format(names))
    rest = {key: value for key, value in body.items() if key not in ("tools", "tool_choice")}
    if not kept:
        return rest
    choice = body.get("tool_choice")
    return {**rest, "tools": kept, **({"tool_choice": choice} if _is_valid_choice(choice, kept) else {})}


def _is_client_tool(tool: object) -> bool:
    return isinstance(tool, dict) and tool.get("type") == CLIENT_TOOL


def _is_valid_choice(choice: object, tools: list[Any]) -> bool:
    """Return whether a choice can be kept: a string, or a tool that is still there."""
    if isinstance(choice, dict):
        return choice.get("type") == CLIENT_TOOL and choice.get("name") in [tool.get("name") for tool in tools]
    return isinstance(choice, str)


def _add_instruction(body: Body, note: str) -> Body:
    given = body.get("instructions")
    return {**body, "instructions": f"{given}\n\n{note}" if isinstance(given, str) and given else note}


def _replace_item_images(item: Any) -> Any:
    """Return an item of the input with notes for its images; tool results have theirs under `output`."""
    if not isinstance(item, dict):
        return item
    lists = {
        key: [_replace_response_image(part) for part in item[key]]
        for key in ("content", "output")
        if isinstance(item.get(key), list)
    }
    return {**item, **lists}


def _replace_response_image(part: Any) -> Any:
    if isinstance(part, dict) and part.get("type") == "input_image":
        return {"type": "input_text", "text": IMAGE_NOTE}
    return part
