"""Every error that a client can get, and its form in each dialect. Pure.

Anthropic: `{"type": "error", "error": {"type", "message"}}`. OpenAI: `{"error": {"message", "type", "param", "code"}}`.
Google: `{"error": {"code", "message", "status"}}`.
Claude Code compacts its conversation only if the message of an overflow is `prompt is too long: N tokens > M maximum`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bouchet_core.deployments import Phase

from .admission import TooMuchUnderWayError
from .api_keys import RateLimitExceededError
from .dialects.endpoints import Dialect
from .routing.paths import SERVED_PATHS, base_url_problem, instead_of
from .routing.table import LookupResult, NoModelRunning, NotReady, UnknownModel

OVERLOADED = 529
UNREACHABLE = "model_unreachable"
RETRY_SOON_S, RETRY_LATER_S = 10, 30
# Claude Code's contract for gateways: a refusal by a rule of this installation says so, and is not tried again
POLICY_BLOCKED = "policy_blocked"
NO_RETRY = ((b"x-should-retry", b"false"),)
MAX_LISTED_NAMES = 20
# of what a client sent
MAX_QUOTED = 200

# HTTP status -> Anthropic's `error.type`
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
# HTTP status -> Google's `error.status`
_GOOGLE_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(eq=False)
class ProxyError(Exception):
    """An error response. It is raised, or passed on as a value where a stream must end with it.

    code: OpenAI's `code`, and the kind that usage records and metrics keep. retry_after_s: the header of that name.
    overflow: (prompt, context window) in tokens. details: fields that Anthropic's SDKs read beside the message.
    param: the field at fault, for OpenAI's clients. headers: more of them, (name, value).
    """

    status: int
    message: str
    code: str | None = None
    retry_after_s: int | None = None
    overflow: tuple[int, int] | None = None
    details: Mapping[str, Any] | None = None
    param: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def __str__(self) -> str:
        return self.message


def status_for(dialect: Dialect, error: ProxyError) -> int:
    """Return the HTTP status: 529 is Anthropic's own, all other clients know 503."""
    if dialect is not Dialect.ANTHROPIC and error.status == OVERLOADED:
        return 503
    return error.status


def error_body(dialect: Dialect, error: ProxyError) -> dict[str, Any]:
    """Return the JSON body of the error in that dialect."""
    if dialect is Dialect.ANTHROPIC:
        kind = _ANTHROPIC_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
        body = {"type": kind, "message": _anthropic_message(error)}
        return {"type": "error", "error": {**body, "details": error.details} if error.details else body}
    if dialect is Dialect.GOOGLE:
        code = status_for(dialect, error)
        kind = _GOOGLE_STATUSES.get(code, "INTERNAL" if code >= 500 else "FAILED_PRECONDITION")
        return {"error": {"code": code, "message": _google_message(error), "status": kind}}
    fallback = "server_error" if error.status >= 500 else "invalid_request_error"
    kind = _OPENAI_TYPES.get(error.status, fallback)
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def _anthropic_message(error: ProxyError) -> str:
    if error.overflow is None:
        return error.message
    prompt, window = error.overflow
    return f"prompt is too long: {prompt} tokens > {window} maximum"


def _google_message(error: ProxyError) -> str:
    if error.overflow is None:
        return error.message
    prompt, window = error.overflow
    return f"The input token count ({prompt}) exceeds the maximum number of tokens allowed ({window})."


# keys and limits


def invalid_api_key() -> ProxyError:
    """Build the error for a missing, wrong, revoked or expired key."""
    message = (
        "invalid, revoked or expired API key: send BOUCHET_API_KEY (from .env) or a key from `bouchet keys add`, as "
        "`Authorization: Bearer KEY`, `x-api-key: KEY` or (Gemini's clients) `x-goog-api-key: KEY`"
    )
    return ProxyError(401, message, "invalid_api_key")


def owner_only(path: str) -> ProxyError:
    """Build the error for a valid key that is not the owner's."""
    message = f"{path} requires the owner's key, BOUCHET_API_KEY ({POLICY_BLOCKED})"
    return ProxyError(403, message, "owner_only", headers=NO_RETRY)


def rate_limit_exceeded(key_name: str, exceeded: RateLimitExceededError) -> ProxyError:
    """Build the error for a key that has used up its limit for now."""
    message = (
        f"key {key_name!r} exceeded its limit of {exceeded.per_minute:,} {exceeded.what} per minute; retry in "
        f"{exceeded.retry_after_s} s (`bouchet keys` shows the limits)"
    )
    return ProxyError(429, message, "rate_limit_exceeded", exceeded.retry_after_s)


def too_much_under_way(key_name: str, found: TooMuchUnderWayError) -> ProxyError:
    """Build the error for a request beyond what may be under way at a time."""
    whose = "all keys together have" if found.shared else f"key {key_name!r} has"
    message = f"{whose} the most that may be under way at a time: {found.limit:,} {found.what}; retry in a few seconds"
    return ProxyError(429, message, "too_much_under_way", RETRY_SOON_S)


# requests that cannot be served


def encoding_unsupported(encoding: str, known: Iterable[str]) -> ProxyError:
    """Build the error for a request body that is compressed in another way than those known."""
    names = ", ".join(known)
    message = f"content-encoding {encoding[:MAX_QUOTED]!r} is not supported; send the body uncompressed, or as {names}"
    return ProxyError(415, message, headers=((b"accept-encoding", names.encode()),))


def too_many_values(limit: int) -> ProxyError:
    """Build the error for a body with too many JSON values."""
    message = f"the request body has more than {limit:,} JSON values (counted by `,`, `[` and `{{`)"
    return ProxyError(413, message, "request_too_large")


def body_too_large(limit_bytes: int) -> ProxyError:
    """Build the error for a request body above the limit."""
    return ProxyError(413, f"the request body exceeds {limit_bytes // (1 << 20)} MiB", "request_too_large")


def unknown_path(method: str, path: str) -> ProxyError:
    """Build the error for a path that this proxy does not serve."""
    clauses = (f"unknown path: {method} {path[:MAX_QUOTED]}", instead_of(path) or base_url_problem(path))
    message = "; ".join(filter(None, (*clauses, f"this proxy serves {SERVED_PATHS}")))
    return ProxyError(404, message, "not_found")


def method_not_allowed(method: str, path: str, allowed: str) -> ProxyError:
    """Build the error for a path that has another method."""
    instead = instead_of(path) if method in ("GET", "HEAD") else ""
    message = f"{path} takes {allowed}, not {method}" + (f"; {instead}" if instead else "")
    return ProxyError(405, message, "method_not_allowed", headers=((b"allow", allowed.encode()),))


def origin_not_allowed(origin: str) -> ProxyError:
    """Build the error for a web page that asks whether it may use this proxy."""
    message = (
        f"pages of {origin[:MAX_QUOTED]} may not use this proxy: add the origin to BROWSER_ORIGINS in .env and run "
        f"`make up` ({POLICY_BLOCKED})"
    )
    return ProxyError(403, message, "origin_not_allowed", headers=NO_RETRY)


def bad_request(message: str) -> ProxyError:
    """Build the error for an invalid request body. message: begins with the field at fault, if it is one."""
    field, colon, _ = message.partition(": ")
    return ProxyError(400, message, param=field if colon and " " not in field else None)


def nested_too_deeply() -> ProxyError:
    """Build the error for a body with more levels than can be read or written."""
    return bad_request("the request body is nested too deeply")


def threads_unsupported(message: str) -> ProxyError:
    """Build the error after which Anthropic's SDKs send the whole conversation, as its tool runner needs."""
    details = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    return ProxyError(400, message, details=details)


def tools_unavailable(alias: str, reason: str) -> ProxyError:
    """Build the error for tools at a model whose smoke test showed that tool calls come back as plain text."""
    message = (
        f"tool calling is disabled for {alias} ({reason}); retry without tools (Claude Code: "
        '`--tools "" --strict-mcp-config`), fix `tool_parser` in models.yaml and relaunch, or use another model '
        f"(`bouchet status`) ({POLICY_BLOCKED})"
    )
    return ProxyError(400, message, "tools_unavailable", headers=NO_RETRY)


def context_overflow(prompt: int, window: int) -> ProxyError:
    """Build the error for a prompt longer than the context window, both in tokens."""
    prompt = max(prompt, window + 1)
    message = (
        f"This model's maximum context length is {window} tokens. However, your messages resulted in {prompt} tokens. "
        "Please reduce the length of the messages."
    )
    return ProxyError(400, message, "context_length_exceeded", overflow=(prompt, window))


def answer_overflow(prompt: int, answer: int, window: int) -> ProxyError:
    """Build the error of a server that does not shorten answers, in the words by which Claude Code asks for less."""
    message = (
        f"input length and `max_tokens` exceed context limit: {prompt} + {answer} > {window}, decrease input length or "
        "`max_tokens` and try again"
    )
    return ProxyError(400, message, "context_length_exceeded", param="max_tokens")


# servers that do not answer


def unreachable(alias: str) -> ProxyError:
    """Build the error for a closed tunnel, or a slot that nothing listens behind."""
    message = (
        f"{alias} cannot be reached: the tunnel to the cluster is down or its vLLM server has stopped; check "
        "`bouchet tunnel` and `bouchet status`, then retry"
    )
    return ProxyError(OVERLOADED, message, UNREACHABLE, RETRY_SOON_S)


def stream_interrupted(alias: str) -> ProxyError:
    """Build the error for a server that closed the connection in the middle of its response."""
    message = f"the connection to {alias} was lost before its response was complete; check `bouchet status`"
    return ProxyError(502, message, "stream_interrupted")


def timed_out(alias: str, after_s: float) -> ProxyError:
    """Build the error for a server that keeps the connection open but sends nothing."""
    return ProxyError(504, f"{alias} sent no data for {after_s:.0f} s; check `bouchet logs {alias}`", "timeout")


def internal_error() -> ProxyError:
    """Build the error for a fault of the proxy itself, which its log has in full."""
    return ProxyError(500, "internal proxy error; check `make logs`", "internal_error")


def still_loading() -> ProxyError:
    """Build the error for a request that LiteLLM translates, which is loaded for the first time."""
    message = f"the proxy is loading its translation of this API, for the first time; retry in {RETRY_SOON_S} s"
    return ProxyError(503, message, "still_loading", RETRY_SOON_S)


# models that are not ready


def unavailable(found: LookupResult, now: datetime) -> ProxyError:
    """Build the error for a model name that leads to no ready model."""
    match found:
        case NotReady():
            return not_ready(found, now)
        case NoModelRunning():
            return no_model_running(found)
        case UnknownModel():
            return model_not_found(found)
        case _:
            return table_not_loaded()


def table_not_loaded() -> ProxyError:
    """Build the error for a proxy that has not read the store yet."""
    message = (
        "the proxy cannot list the running models: Redis has not answered since the proxy started; check `make status` "
        "and `make logs`, then retry"
    )
    return ProxyError(OVERLOADED, message, "store_unavailable", RETRY_SOON_S)


def table_not_current(problem: str) -> ProxyError:
    """Build the answer of the health check while a table cannot be renewed."""
    return ProxyError(503, f"{problem}; check `make status` and `make logs`", "table_not_current", RETRY_LATER_S)


def no_model_running(found: NoModelRunning) -> ProxyError:
    """Build the error for a name that any model may answer to while none is live."""
    choice = f" (catalog: {_join_names(found.catalog)})" if found.catalog else ""
    message = f"no model is running; start one with `bouchet launch MODEL`{choice}"
    return ProxyError(OVERLOADED, message, "no_model_running", RETRY_LATER_S)


def model_not_found(found: UnknownModel) -> ProxyError:
    """Build the error for a name that no deployment has."""
    if found.in_catalog:
        hint = f"model {found.name!r} is not running; start it with `bouchet launch {found.name}`"
    else:
        hint = f"unknown model {found.name[:MAX_QUOTED]!r}"
        hint += f"; did you mean {found.similar!r}?" if found.similar else ""
    running = f"running models: {_join_names(found.running)}" if found.running else "no model is running"
    listed = found.catalog and not found.in_catalog
    catalog = f"; catalog (`bouchet launch MODEL`): {_join_names(found.catalog)}" if listed else ""
    return ProxyError(404, f"{hint}; {running}{catalog}", "model_not_found")


def not_ready(found: NotReady, now: datetime) -> ProxyError:
    """Build the error for a deployment that is queued, starting or stopping."""
    retry_after_s = RETRY_SOON_S if found.phase is Phase.STARTING else RETRY_LATER_S
    if found.wakes and found.phase is Phase.PARKED and found.expected_s is not None:
        retry_after_s = max(RETRY_SOON_S, round(found.expected_s))
    return ProxyError(OVERLOADED, f"{found.alias} {_describe_phase(found, now)}", "model_not_ready", retry_after_s)


def _describe_phase(found: NotReady, now: datetime) -> str:
    reason = f": {found.reason}" if found.reason else ""
    if found.attached:
        return f"is attached, not ours, and cannot be used now{reason}; it is used again when it answers"
    match found.phase:
        case Phase.QUEUED:
            return f"is queued{reason}{_describe_estimate(found.start_estimate, now)}"
        case Phase.STARTING | Phase.READY:
            progress = f": {found.progress}" if found.progress else reason
            return f"is starting{progress}; it is not ready yet"
        case Phase.PARKED if found.wakes:
            about = f"; its last start took {found.expected_s:.0f} s" if found.expected_s is not None else ""
            return f"is parked and starts for this request{about}: retry when it is ready (`bouchet status`)"
        case Phase.PARKED:
            return f"is parked{reason}; `bouchet status {found.alias}` shows when it starts again"
        case Phase.DRAINING | Phase.ENDED:
            return f"is stopping{reason}; restart it with `bouchet launch`"
        case _:
            return f"is being submitted to Slurm{reason}; it is not queued yet"


def _describe_estimate(start: datetime | None, now: datetime) -> str:
    if start is None:
        return "; Slurm has no start estimate yet"
    minutes = max(0, round((start - now).total_seconds() / 60))
    wait = f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    return f"; Slurm expects it to start at {start.astimezone(UTC):%H:%M} UTC (in about {wait})"


def _join_names(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - MAX_LISTED_NAMES} more" if len(names) > MAX_LISTED_NAMES else ""
    return ", ".join(names[:MAX_LISTED_NAMES]) + more
