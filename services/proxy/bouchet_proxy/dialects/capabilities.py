"""What a model rejects, in the words by which Claude Code helps itself. Pure.

Claude Code's contract for gateways (`claude gateway`, GET /protocol) names classes of rejected capabilities. After
`capability_rejected: CLASS` the client drops that capability and sends the request again; an older one knows only the
phrases of Anthropic's servers. So a message has both, and the words of the server between them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

TOKEN = "capability_rejected: "
MAX_CHARS = 300


@dataclass(frozen=True)
class Capability:
    """A class of the contract that a model behind this proxy may reject.

    phrase: of Anthropic's servers. words: of vLLM and of chat templates. concerns: whether the request uses it.
    """

    name: str
    phrase: str
    words: re.Pattern[str]
    concerns: Callable[[Mapping[str, Any]], bool]


# Classes that no request meets here: the proxy never sends what they are about (cache_control_field, document_block,
# thinking_signature, beta_header), or vLLM itself trims the answer (max_tokens_context_overflow). prompt_too_long has
# its own message (errors.context_overflow).
CAPABILITIES = (
    Capability(
        "mid_conv_system",
        "role 'system' is not supported at this place of the conversation",
        re.compile(
            r"system message must be at the beginning|only.{0,40}first message.{0,40}system|roles must alternate", re.I
        ),
        lambda body: any(_role(message) == "system" for message in body.get("messages") or ()),
    ),
    Capability(
        "thinking_type:enabled",
        "thinking.type: enabled is not supported by this model",
        re.compile(r"thinking_token_budget|reasoning_config", re.I),
        lambda body: _kind(body.get("thinking")) == "enabled",
    ),
    Capability(
        "structured_outputs_unsupported",
        "output_config.format: Extra inputs are not permitted",
        re.compile(r"grammar|structured.output|json.schema", re.I),
        lambda body: isinstance(body.get("output_config"), dict) and bool(body["output_config"].get("format")),
    ),
    Capability(
        "effort_unsupported",
        "This model does not support the effort parameter",
        re.compile(r"effort", re.I),
        lambda body: isinstance(body.get("output_config"), dict) and bool(body["output_config"].get("effort")),
    ),
    Capability(
        "media_budget",
        "Too much media",
        re.compile(r"at most [1-9]\d* (?:image|video|audio)", re.I),
        lambda body: True,
    ),
    Capability(
        "image_block",
        "Could not process image",
        re.compile(
            r"at most 0 image|not a multimodal model|failed to load image|cannot identify image|image_url|"
            r"failed to apply \w*(?:image|processor)|decode.{0,20}image|image.{0,40}(?:too large|exceeds|truncated)",
            re.I,
        ),
        lambda body: True,
    ),
)


def name_capability(message: str, body: Mapping[str, Any]) -> str | None:
    """Return the message with the class of what the model rejected; None if it is about something else.

    message: of the server, which rejected the request with status 400. body: the request, as it was sent.
    """
    for capability in CAPABILITIES:
        if capability.words.search(message) and capability.concerns(body):
            return f"{capability.phrase}: {message[:MAX_CHARS].rstrip('. ')} ({TOKEN}{capability.name})"
    return None


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, dict) else None


def _kind(value: object) -> object:
    return value.get("type") if isinstance(value, dict) else None
