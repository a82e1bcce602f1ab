"""What a model can do right after its start: small requests as clients send them, each bounded in tokens and time.

A check fails only on what was seen to be wrong. What could not be checked (no time left, an answer cut short by the
model's reasoning) is `not_tried`, with the reason.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from bouchet_core.provenance import SmokeCheck, SmokeTest

# all checks together, and one request
TEST_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 20.0
ANSWER_TOKENS = 16
# reasoning may come before a tool call
TOOL_CALL_TOKENS = 256
# /tokenize may render a prompt a little differently, e.g. without the template's switches
COUNT_TOLERANCE = 16
QUOTE_CHARACTERS = 200
# for the second try of a tool call: at temperature 0 the model would make the same mistake
RETRY_TEMPERATURE = 0.7

CHAT_MESSAGES = [{"role": "user", "content": "Answer with the one word OK."}]
TOOL = "report_status"
TOOL_MESSAGES = [{"role": "user", "content": f"Call the tool {TOOL} once, with status set to ok. Write nothing else."}]
FUNCTION = {
    "name": TOOL,
    "description": "Reports a status.",
    "parameters": {
        "type": "object",
        "properties": {"status": {"type": "string", "enum": ["ok"]}},
        "required": ["status"],
        "additionalProperties": False,
    },
}
TOOLS: list[dict[str, object]] = [{"type": "function", "function": FUNCTION}]
# vLLM 0.32 constrains the arguments of a forced call to the schema only where the tool is strict
STRICT_TOOLS: list[dict[str, object]] = [{"type": "function", "function": {**FUNCTION, "strict": True}}]
# unparsed tool calls of the model families that vLLM has parsers for
_CALL_AS_TEXT = re.compile(
    r"<tool_call|<\|tool_call|<function|\[TOOL_CALLS\]|<\|python_tag\||functools\[|<invoke|tool_calls_section|"
    r"to=functions|\"name\"\s*:\s*\"" + TOOL
)


@dataclass(frozen=True)
class ExpectedModel:
    """What the catalog and the launch expect of a model. name: one that it is served as; window: tokens."""

    name: str
    window: int | None
    thinking: Literal["none", "off", "on", "always"]
    tool_parser: str | None
    reasoning_parser: str | None


class ServerGoneError(Exception):
    """The server stopped or is about to: nothing is known about the model."""


class _RequestFailedError(Exception):
    """vLLM answered with an error; the message repeats it."""


def run_smoke_test(http: httpx.Client, expected: ExpectedModel, is_healthy: Callable[[], bool]) -> SmokeTest:
    """Run all checks. is_healthy is called after a lost connection. Raises ServerGoneError."""
    began = time.monotonic()
    tester = _Tester(http, expected, is_healthy, began + TEST_TIMEOUT_S)
    window = tester.check(_window)
    chat, answer = tester.chat()
    return SmokeTest(
        window=window,
        chat=chat,
        thinking=_thinking(expected, answer),
        count=tester.check(lambda t: _count(t, answer)),
        stream=tester.check(_stream),
        tools=tester.check(_tools),
        took_s=round(time.monotonic() - began, 1),
    )


class _Tester:
    """Sends requests to one server until a deadline."""

    def __init__(
        self, http: httpx.Client, expected: ExpectedModel, is_healthy: Callable[[], bool], deadline: float
    ) -> None:
        self._http, self.expected, self._is_healthy, self._deadline = http, expected, is_healthy, deadline

    def check(self, test: Callable[[_Tester], SmokeCheck]) -> SmokeCheck:
        """Return the check, whatever happens to its requests."""
        try:
            return test(self)
        except _RequestFailedError as exc:
            return failed(str(exc))
        except httpx.TimeoutException:
            return not_tried(f"no answer within {REQUEST_TIMEOUT_S:.0f} s")
        except httpx.HTTPError as exc:
            if not self._is_healthy():
                raise ServerGoneError(str(exc)) from exc
            return failed(f"the connection broke during the answer ({type(exc).__name__})")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return failed("the answer is malformed")

    def chat(self) -> tuple[SmokeCheck, Mapping[str, Any] | None]:
        """Check a chat, and return its answer for other checks, None without one."""
        answers: list[Mapping[str, Any]] = []

        def test(_: _Tester) -> SmokeCheck:
            answers.append(self.post("/v1/chat/completions", self.chat_body(CHAT_MESSAGES, ANSWER_TOKENS)))
            return _has_content(answers[0])

        return self.check(test), answers[0] if answers else None

    def chat_body(self, messages: list[dict[str, str]], tokens: int, **more: object) -> dict[str, object]:
        """Return the body of a chat request."""
        return {"model": self.expected.name, "messages": messages, "max_tokens": tokens, "temperature": 0, **more}

    def get(self, path: str) -> Mapping[str, Any]:
        """Return the JSON of a successful answer."""
        return self._json(self._http.get(path, timeout=self._left()))

    def post(self, path: str, body: Mapping[str, object]) -> Mapping[str, Any]:
        """Return the JSON of a successful answer."""
        return self._json(self._http.post(path, json=body, timeout=self._left()))

    def lines(self, path: str, body: Mapping[str, object]) -> Iterator[str]:
        """Yield the lines of a successful answer as they arrive."""
        deadline = time.monotonic() + self._left()
        with self._http.stream("POST", path, json=body, timeout=self._left()) as response:
            if not response.is_success:
                response.read()
                self._json(response)
            for line in response.iter_lines():
                yield line
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("too slow")

    def _left(self) -> float:
        left = min(self._deadline - time.monotonic(), REQUEST_TIMEOUT_S)
        if left <= 0:
            raise httpx.PoolTimeout("no time left")
        return left

    def _json(self, response: httpx.Response) -> Mapping[str, Any]:
        if response.headers.get("x-bouchet-state") == "draining" or response.status_code == 503:
            raise ServerGoneError("the job is about to end")
        if not response.is_success:
            raise _RequestFailedError(f"vLLM returned HTTP {response.status_code}: {_error_message(response)}")
        body: Mapping[str, Any] = response.json()
        return body


def passed(message: str) -> SmokeCheck:
    """Return a check that was seen to be right."""
    return SmokeCheck(result="ok", message=message)


def failed(message: str) -> SmokeCheck:
    """Return a check that was seen to be wrong."""
    return SmokeCheck(result="failed", message=message)


def not_tried(message: str) -> SmokeCheck:
    """Return a check without a result."""
    return SmokeCheck(result="not_tried", message=message)


def _has_content(answer: Mapping[str, Any]) -> SmokeCheck:
    tokens = answer["usage"]["completion_tokens"]
    if not isinstance(answer["choices"][0]["message"], dict) or tokens < 1:
        return failed("the answer is empty")
    return passed(f"{tokens} tokens")


def _window(tester: _Tester) -> SmokeCheck:
    served = int(tester.get("/v1/models")["data"][0]["max_model_len"])
    expected = tester.expected.window
    if expected is not None and served != expected:
        return failed(f"vLLM serves a window of {served} tokens instead of {expected}")
    return passed(f"{served} tokens")


def _count(tester: _Tester, answer: Mapping[str, Any] | None) -> SmokeCheck:
    body = {"model": tester.expected.name, "messages": CHAT_MESSAGES, "add_generation_prompt": True}
    counted = int(tester.post("/tokenize", body)["count"])
    if answer is None:
        if not counted:
            return failed("/tokenize counts 0 tokens")
        return passed(f"{counted} tokens, not compared: the chat had no answer")
    charged = int(answer["usage"]["prompt_tokens"])
    if abs(counted - charged) > COUNT_TOLERANCE:
        return failed(f"/tokenize counts {counted} tokens for a prompt of {charged} tokens")
    return passed(f"{counted} tokens, charged {charged}")


def _stream(tester: _Tester) -> SmokeCheck:
    """Check a stream of the Messages API, which Claude Code uses; it ends with `message_stop`."""
    body = {"model": tester.expected.name, "messages": CHAT_MESSAGES, "max_tokens": ANSWER_TOKENS, "stream": True}
    events = 0
    for line in tester.lines("/v1/messages", body):
        if not line.startswith("data:"):
            continue
        event = json.loads(line[len("data:") :])
        events += 1
        if event["type"] == "message_stop":
            return passed(f"{events} events")
        if event["type"] == "error":
            return failed(f"the stream ends with an error: {_short(str(event['error'].get('message')))}")
    return failed(f"the stream ends after {events} events without message_stop")


def _thinking(expected: ExpectedModel, answer: Mapping[str, Any] | None) -> SmokeCheck:
    """Check the first answer, whose request did not switch thinking on or off."""
    if expected.thinking == "none":
        return not_tried("skipped: not a reasoning model")
    if answer is None:
        return not_tried("the chat had no answer")
    message = answer["choices"][0]["message"]
    text = message.get("content") or ""
    reasoning = message.get("reasoning") or message.get("reasoning_content") or ""
    if expected.thinking == "off":
        if reasoning or "<think>" in text:
            return failed("the model thinks by default, but the catalog has `thinking: off`")
        return passed("no thinking by default")
    if expected.reasoning_parser and "<think>" in text:
        return failed(
            f"reasoning returned as plain text: parser {expected.reasoning_parser!r} does not match the model"
        )
    return passed("thinks") if reasoning or "<think>" in text else not_tried("the prompt was too simple to think about")


def _tools(tester: _Tester) -> SmokeCheck:
    """Check a tool call. A failure disables tools, so only a call that fails twice has failed."""
    parser = tester.expected.tool_parser
    if parser is None:
        return not_tried("the catalog has no tool_parser")
    first = _tool_call(tester, parser, 0)
    if first.result != "failed":
        return first
    second = tester.check(lambda again: _tool_call(again, parser, RETRY_TEMPERATURE))
    return second if second.result == "ok" else first


def _tool_call(tester: _Tester, parser: str, temperature: float) -> SmokeCheck:
    """Check a voluntary call, which the parser has to read from the model's text; a model that makes none is forced."""
    message, finish_reason = _request_call(tester, TOOLS, "auto", temperature)
    if message.get("tool_calls"):
        return _check_call(message, "voluntary tool call")
    if _CALL_AS_TEXT.search(message.get("content") or ""):
        text = _short(str(message["content"]))
        return failed(f"tool call returned as plain text: parser {parser!r} does not match this model: {text}")
    if finish_reason == "length":
        return not_tried(f"the answer was cut off after {TOOL_CALL_TOKENS} tokens, before a tool call")
    return _forced_call(tester, parser, temperature)


def _forced_call(tester: _Tester, parser: str, temperature: float) -> SmokeCheck:
    try:
        message, finish_reason = _request_call(tester, STRICT_TOOLS, "required", temperature)
    except _RequestFailedError as exc:
        # the same request without the force was answered
        return not_tried(f"the model made no tool call, and a call cannot be forced: {exc}")
    if message.get("tool_calls"):
        return _check_call(message, "forced tool call; the model made none by itself")
    if finish_reason == "length":
        return not_tried(f"a forced tool call was cut off after {TOOL_CALL_TOKENS} tokens")
    return failed(f"even a forced tool call was not returned as one (parser {parser!r})")


def _request_call(
    tester: _Tester, tools: list[dict[str, object]], tool_choice: str, temperature: float
) -> tuple[Mapping[str, Any], str]:
    """Return the message of the answer and its finish reason."""
    options = {"tools": tools, "tool_choice": tool_choice, "temperature": temperature}
    body = tester.chat_body(TOOL_MESSAGES, TOOL_CALL_TOKENS, **options)
    choice = tester.post("/v1/chat/completions", body)["choices"][0]
    return choice["message"], str(choice.get("finish_reason"))


def _check_call(message: Mapping[str, Any], kind: str) -> SmokeCheck:
    function = message["tool_calls"][0]["function"]
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, TypeError):
        arguments = None
    if function["name"] != TOOL or not isinstance(arguments, dict):
        returned = _short(f"{function['name']}({function['arguments']})")
        return failed(f"the tool call is {returned}, expected {TOOL} with JSON arguments")
    return passed(kind)


def _error_message(response: httpx.Response) -> str:
    try:
        body = response.json()
        error = body.get("error", body)
        return _short(str(error.get("message", error) if isinstance(error, dict) else error))
    except (ValueError, AttributeError):
        return _short(response.text)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= QUOTE_CHARACTERS else flat[: QUOTE_CHARACTERS - 3] + "..."
