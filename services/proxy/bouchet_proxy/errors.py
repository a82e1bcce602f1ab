"""Everything that goes wrong, in the words of the client's own dialect. Pure.

Anthropic's: `{"type": "error", "error": {"type", "message"}}`. OpenAI's: `{"error": {"message", "type", "param",
"code"}}`. Claude Code compacts and goes on only if an overflow reads `prompt is too long: N tokens > M maximum`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson
from bouchet_core.deployments import Phase

from .auth.rate_limit import TooMuch
from .dialects.endpoints import Dialect, Endpoint
from .routing.table import NoSuchModel, NothingRuns, Waiting

OVERLOADED = 529
UNREACHABLE = "model_unreachable"
RETRY_SOON_S, RETRY_LATER_S = 10, 30

# status -> Anthropic's `type`
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

# vLLM 0.32, renderers/params.py
_TOKENS_OVER = re.compile(r"maximum context length is (\d+) tokens.*?contains (?:at least )?(\d+) input tokens", re.S)
_CHARS_OVER = re.compile(r"maximum context length is (\d+) tokens.*?contains (\d+) characters", re.S)
# LiteLLM puts its own and its adapter's exception names before what the server said
_PREFIX = re.compile(
    r"^\s*(?:Invalid request format:\s*(?=litellm))?(?:litellm\.)?(?:\w+(?:Error|Exception)\s*[:-]\s*)+", re.I
)
# ... and what it tried, how often, after it
_SUFFIX = re.compile(r"\.?\s*(?:Received Model Group=|Available Model Group Fallbacks=|LiteLLM\b).*$", re.DOTALL)
# how the HTTP libraries say that the server went away in the middle
_BROKEN = re.compile(r"payload is not completed|TransferEncodingError|disconnected|peer closed", re.IGNORECASE)
# the gateway's own refusals, also inside the words of a library
_GATEWAYS = re.compile(
    rb'kind\\*":\s*\\*"(?:tunnel_down|human_needed|no_target|cluster_unavailable|gateway_unreachable)'
)
# a cautious guess, for overflows that vLLM refuses before it has counted the tokens
_CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong. `code` is OpenAI's word for it, `details` what Anthropic's clients look for besides the words;
    `retry_after_s` becomes the header of that name."""

    status: int
    message: str
    code: str | None = None
    retry_after_s: int | None = None
    overflow: tuple[int, int] | None = None
    details: Mapping[str, Any] | None = None


def status_in(dialect: Dialect, failure: Failure) -> int:
    """529 is Anthropic's own; OpenAI's clients know 503."""
    if dialect is Dialect.OPENAI and failure.status == OVERLOADED:
        return 503
    return failure.status


def error_body(dialect: Dialect, failure: Failure) -> dict[str, Any]:
    """The error as a client of that dialect expects it."""
    if dialect is Dialect.ANTHROPIC:
        kind = _ANTHROPIC_TYPES.get(failure.status, "api_error" if failure.status >= 500 else "invalid_request_error")
        error = {"type": kind, "message": _anthropic_message(failure)}
        return {"type": "error", "error": {**error, "details": failure.details} if failure.details else error}
    fallback = "server_error" if failure.status >= 500 else "invalid_request_error"
    kind = _OPENAI_TYPES.get(failure.status, fallback)
    return {"error": {"message": failure.message, "type": kind, "param": None, "code": failure.code}}


def _anthropic_message(failure: Failure) -> str:
    if failure.overflow is None:
        return failure.message
    prompt, window = failure.overflow
    return f"prompt is too long: {prompt} tokens > {window} maximum"


def wrong_key() -> Failure:
    """No key, or not ours."""
    message = (
        "invalid API key: send BOUCHET_API_KEY (see .env), or a key from `bouchet keys add` that is neither revoked "
        "nor expired, as `Authorization: Bearer KEY` or `x-api-key: KEY`"
    )
    return Failure(401, message, "invalid_api_key")


def owner_only(path: str) -> Failure:
    """A good key, but not the owner's."""
    return Failure(403, f"{path} is for the owner's key (BOUCHET_API_KEY) alone", "owner_only")


def over_limit(name: str, found: TooMuch) -> Failure:
    """The key's limit is used up for now."""
    message = (
        f"key {name!r} has used its {found.per_minute:,} {found.what} a minute; try again in {found.retry_after_s} s "
        "(the stack's owner sets the limits: `bouchet keys`)"
    )
    return Failure(429, message, "rate_limit_exceeded", found.retry_after_s)


def too_large(limit_bytes: int) -> Failure:
    """The body exceeds what is read."""
    return Failure(413, f"the request is larger than {limit_bytes // (1 << 20)} MiB", "request_too_large")


def no_such_path(method: str, path: str) -> Failure:
    """Not one of the paths that this proxy serves."""
    return Failure(404, f"{method} {path} is not served here", "not_found")


def bad_request(message: str) -> Failure:
    """The client's body cannot be used."""
    return Failure(400, message)


def no_threads(message: str) -> Failure:
    """Anthropic's SDKs send the whole conversation when they are told so, as its tool runner needs."""
    details = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    return Failure(400, message, details=details)


def no_tools(alias: str, why: str) -> Failure:
    """Its smoke test showed that tool calls do not come through: better an error than calls that stay text."""
    message = (
        f"{alias} serves without tools, and this request brings some: {why}. Without tools it answers (Claude Code: "
        '`--tools "" --strict-mcp-config`, as `bouchet` starts it); for tools mend `tool_parser` in models.yaml and '
        "launch it again, or take another model (`bouchet status`)"
    )
    return Failure(400, message, "tools_unavailable")


def unreachable(alias: str) -> Failure:
    """The tunnel is down, or nothing listens behind the slot."""
    message = (
        f"{alias} cannot be reached now: the tunnel to the cluster is down or its server has stopped; "
        "try again, `bouchet tunnel` and `bouchet status` tell more"
    )
    return Failure(OVERLOADED, message, UNREACHABLE, RETRY_SOON_S)


def overflow(prompt: int, window: int) -> Failure:
    """The prompt is longer than the window, both in tokens."""
    prompt = max(prompt, window + 1)
    message = (
        f"This model's maximum context length is {window} tokens. However, your messages resulted in {prompt} tokens. "
        "Please reduce the length of the messages."
    )
    return Failure(400, message, "context_length_exceeded", overflow=(prompt, window))


def table_unknown() -> Failure:
    """Nothing has been read from the store yet."""
    message = (
        "the proxy does not know yet which models run: its store (Redis) has not answered since it started; "
        "try again, `make status` and `make logs` tell more"
    )
    return Failure(OVERLOADED, message, "store_unavailable", RETRY_SOON_S)


def cut_short(alias: str) -> Failure:
    """The server went away in the middle of an answer."""
    message = f"the connection to {alias} broke before its answer was complete; `bouchet status` tells why"
    return Failure(502, message, "stream_interrupted")


def timed_out(alias: str, after_s: float) -> Failure:
    """The server holds the connection but says nothing."""
    return Failure(504, f"{alias} did not answer within {after_s:.0f} s; `bouchet logs` tells more", "timeout")


def broken() -> Failure:
    """A fault of our own; the log has it."""
    return Failure(500, "the proxy failed on this request; `make logs` shows why", "internal_error")


def nothing_runs(found: NothingRuns) -> Failure:
    """Any model would do, and there is none."""
    choice = f" (one of: {_listed(found.catalog)})" if found.catalog else ""
    message = f"no model is running; start one with `bouchet launch MODEL`{choice}"
    return Failure(OVERLOADED, message, "no_model_running", RETRY_LATER_S)


def no_such_model(found: NoSuchModel) -> Failure:
    """Nobody answers to that name."""
    if found.in_catalog:
        hint = f"model {found.name!r} is not running; start it with `bouchet launch {found.name}`"
    else:
        hint = f"no model {found.name!r}"
    served = f"running now: {_listed(found.served)}" if found.served else "nothing is running"
    show = found.catalog and not found.in_catalog
    catalog = f"; in the catalog, for `bouchet launch`: {_listed(found.catalog)}" if show else ""
    return Failure(404, f"{hint}; {served}{catalog}", "model_not_found")


def not_ready(waiting: Waiting, now: datetime) -> Failure:
    """The model will answer later; says what it waits for and when that may end."""
    retry_after_s = RETRY_SOON_S if waiting.phase is Phase.STARTING else RETRY_LATER_S
    return Failure(OVERLOADED, f"{waiting.alias} {_state(waiting, now)}", "model_not_ready", retry_after_s)


def _state(waiting: Waiting, now: datetime) -> str:
    reason = f": {waiting.reason}" if waiting.reason else ""
    match waiting.phase:
        case Phase.QUEUED:
            return f"is queued{reason}{_estimate(waiting.start_estimate, now)}"
        case Phase.STARTING | Phase.READY:
            progress = f": {waiting.progress}" if waiting.progress else reason
            return f"is starting{progress}; it is not ready yet"
        case Phase.DRAINING | Phase.ENDED:
            return f"is being stopped{reason}; `bouchet launch` starts it anew"
        case _:
            return f"is being submitted{reason}; it is not queued yet"


def _estimate(start: datetime | None, now: datetime) -> str:
    if start is None:
        return "; Slurm names no start time yet"
    minutes = max(0, round((start - now).total_seconds() / 60))
    wait = f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    return f"; Slurm expects it to start at {start.astimezone(UTC):%H:%M} UTC (in about {wait})"


def _listed(names: Iterable[str], most: int = 20) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def from_upstream(status: int, body: bytes, alias: str, endpoint: Endpoint | None = None) -> Failure:
    """What vLLM (or LiteLLM, repeating it) answered, as a failure of ours. status: its HTTP status."""
    message = said(body)
    if (over := _overflow(message)) is not None:
        return overflow(*over)
    if _GATEWAYS.search(body):
        return replace(unreachable(alias), message=f"{alias} cannot be reached now: {message}")
    if status == 404 and endpoint is Endpoint.EMBEDDINGS:
        return Failure(
            400, f"{alias} makes no embeddings: it was not launched with an embedding model", "no_embeddings"
        )
    if status >= 500 and _BROKEN.search(message):
        return cut_short(alias)
    if status in (401, 403):
        return Failure(502, f"{alias}'s server refused the proxy's key; `bouchet cancel` it and launch again")
    if status in (429, 503, OVERLOADED):
        return replace(unreachable(alias), message=f"{alias} is overloaded: {message}", code="overloaded")
    return Failure(status if status >= 400 else 502, message)


def _overflow(message: str) -> tuple[int, int] | None:
    """(prompt, window) in tokens if this is vLLM's complaint about a long prompt."""
    if found := _TOKENS_OVER.search(message):
        window, prompt = int(found[1]), int(found[2])
        return max(prompt, window + 1), window
    if found := _CHARS_OVER.search(message):
        window, prompt = int(found[1]), int(found[2]) // _CHARS_PER_TOKEN
        return max(prompt, window + 1), window
    return None


def said(body: bytes) -> str:
    """The sentence in an error body of any of the shapes that servers and libraries use."""
    try:
        text = _sentence(orjson.loads(body))
    except orjson.JSONDecodeError:
        text = body[:2000].decode("utf-8", "replace").strip()
    text = _SUFFIX.sub("", _PREFIX.sub("", text or ""))
    return _nested(text) or "the model's server gave no reason"


def _nested(text: str) -> str:
    """The sentence of a JSON error quoted inside a sentence; the text itself if there is none."""
    start, end = text.find("{"), text.rfind("}")
    if 0 <= start < end:
        try:
            inner = _sentence(orjson.loads(text[start : end + 1]))
        except orjson.JSONDecodeError:
            inner = ""
        text = inner or text
    return _PREFIX.sub("", text).strip()


def _sentence(value: Any) -> str:
    """`message` or `detail`, however deep under `error`."""
    if isinstance(value, dict):
        for key in ("error", "message", "detail"):
            if value.get(key):
                return _sentence(value[key])
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_sentence(item) or str(item) for item in value)))
    return str(value) if value is not None else ""
