"""What one conformance case is, and the checks that cases are made of. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bouchet_proxy.streams.sse import parse_stream

MESSAGES, COUNT, CHAT = "/v1/messages", "/v1/messages/count_tokens", "/v1/chat/completions"
COMPLETIONS, RESPONSES, EMBEDDINGS = "/v1/completions", "/v1/responses", "/v1/embeddings"
INPUT_TOKENS = "/v1/responses/input_tokens"
ANTHROPIC = {"anthropic-version": "2023-06-01"}
# vLLM's, pydantic's and LiteLLM's own text, which a client should never read
RAW = ("pydantic", "validation error", "input_value", "Traceback", "litellm", "erroREDACTED", "--enable-")


@dataclass(frozen=True)
class Answer:
    """A response. text: of the model, from a whole response or a stream of any dialect."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_stream(self) -> bool:
        """Whether it is an event stream."""
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def json(self) -> Any:
        """The JSON body."""
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of all events but `[DONE]`."""
        events = parse_stream([self.body])
        return [event.json() for event in events if event.data and event.data != b"[DONE]"]

    @property
    def text(self) -> str:
        """The text that the model wrote."""
        if self.is_stream:
            return "".join(_event_text(event) for event in self.events)
        return _whole_text(self.json)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, of either dialect."""
        found: dict[str, Any] = self.json["error"]
        return found


# returns what is wrong with an answer, '' for nothing
Check = Callable[[Answer], str]


@dataclass(frozen=True)
class Case:
    """One request and what its answer has to be. model: a name of the stack's models, or '' for a body without one.

    headers: beside the key; raw: the body's bytes instead of JSON. only_ours: the check asks for what only this proxy
    promises, and says nothing about others.
    """

    name: str
    path: str
    body: Mapping[str, Any] | None
    checks: tuple[Check, ...]
    method: str = "POST"
    model: str = "scripted"
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    only_ours: bool = False


def judge(case: Case, answer: Answer) -> str:
    """Return the first thing that is wrong with the answer, '' for nothing."""
    try:
        return next(filter(None, (check(answer) for check in case.checks)), "")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as exc:
        return f"{type(exc).__name__}: {exc} in {answer.status} {answer.body[:300]!r}"


# checks


def status(*wanted: int) -> Check:
    """Check the HTTP status."""
    return lambda answer: "" if answer.status in wanted else f"status {answer.status}: {answer.body[:300]!r}"


def says(*text: str) -> Check:
    """Check that the model's text has all of these parts."""
    return lambda answer: "" if all(word in answer.text for word in text) else f"text is {answer.text!r}"


def says_exactly(text: str) -> Check:
    """Check the model's text."""
    return lambda answer: "" if answer.text == text else f"text is {answer.text!r}"


def finds(path: str, wanted: Any) -> Check:
    """Check a value of the body: `choices.0.finish_reason`."""

    def check(answer: Answer) -> str:
        value = answer.json
        for part in path.split("."):
            value = value[int(part)] if part.isdigit() else value[part]
        return "" if value == wanted else f"{path} is {value!r}"

    return check


def holds(title: str, predicate: Callable[[Answer], bool]) -> Check:
    """Check anything else."""
    return lambda answer: "" if predicate(answer) else f"{title}: {answer.body[:300]!r}"


def refuses(wanted: int, *text: str, anthropic: bool = False) -> Check:
    """Check an error: status, shape of the dialect, parts of its message, and nothing of another program."""

    def check(answer: Answer) -> str:
        if answer.status != wanted:
            return f"status {answer.status}: {answer.body[:300]!r}"
        if (answer.json.get("type") == "error") is not anthropic:
            return f"error of another dialect: {answer.body[:200]!r}"
        message = str(answer.error["message"])
        missing = [word for word in text if word.lower() not in message.lower()]
        raw = [word for word in RAW if word in message]
        return f"message {message!r} (missing {missing}, raw {raw})" if missing or raw else ""

    return check


def _event_text(event: Any) -> str:
    if event.get("type") == "response.output_text.delta":
        return str(event["delta"])
    if event.get("type") == "content_block_delta":
        return str(event["delta"].get("text", ""))
    choices = event.get("choices") or ()
    return "".join(str((choice.get("delta") or {}).get("content") or choice.get("text") or "") for choice in choices)


def _whole_text(body: Any) -> str:
    if body.get("type") == "message":
        return "".join(block.get("text", "") for block in body["content"])
    if body.get("object") == "response":
        items = [item for item in body["output"] if item["type"] == "message"]
        return "".join(part.get("text", "") for item in items for part in item["content"])
    return "".join(str((c.get("message") or {}).get("content") or c.get("text") or "") for c in body["choices"])
