"""What a model shows right after its start, asked as clients ask: small questions, each bounded in tokens and time.

A check fails only on what was seen to be wrong. What could not be told (no time left, an answer cut short by its own
thoughts) is not tried, and says why.
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

# all checks together, and one question
WHOLE_S = 60.0
QUESTION_S = 20.0
ANSWER_TOKENS = 16
# thoughts may come before a call
CALL_TOKENS = 256
# a template may render a prompt for the count a little differently, such as without its switches
COUNT_SLACK = 16
SAID_CHARACTERS = 200
# of the second try of a tool call: the same words would stumble alike
WARMER = 0.7

GREETING = [{"role": "user", "content": "Answer with the one word OK."}]
TOOL = "report_status"
CALL_IT = [{"role": "user", "content": f"Call the tool {TOOL} once, with status set to ok. Write nothing else."}]
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
# vLLM 0.32 holds the arguments of a forced call to the schema only where the tool is strict
STRICT_TOOLS: list[dict[str, object]] = [{"type": "function", "function": {**FUNCTION, "strict": True}}]
# how the calls of the families that vLLM has parsers for look, where none of them was read
_CALL_AS_TEXT = re.compile(
    r"<tool_call|<\|tool_call|<function|\[TOOL_CALLS\]|<\|python_tag\||functools\[|<invoke|tool_calls_section|"
    r"to=functions|\"name\"\s*:\s*\"" + TOOL
)


@dataclass(frozen=True)
class Promise:
    """What the catalog and the launch say of a model. name: one that it answers to; window: tokens, None: not named."""

    name: str
    window: int | None
    thinking: Literal["none", "off", "on", "always"]
    tool_parser: str | None
    reasoning_parser: str | None


class Lost(Exception):
    """The server went away, or is about to: nothing can be said of the model."""


class _NoAnswer(Exception):
    """This question has no answer; the message says why."""


def smoke_test(http: httpx.Client, promise: Promise, is_there: Callable[[], bool]) -> SmokeTest:
    """The whole test. is_there: asked after a lost connection whether the server still answers. Raises Lost."""
    began = time.monotonic()
    asker = _Asker(http, promise, is_there, began + WHOLE_S)
    window = asker.check(_window)
    chat, answer = asker.chat()
    return SmokeTest(
        window=window,
        chat=chat,
        thinking=_thinking(promise, answer),
        count=asker.check(lambda a: _count(a, answer)),
        stream=asker.check(_stream),
        tools=asker.check(_tools),
        took_s=round(time.monotonic() - began, 1),
    )


class _Asker:
    """Asks one server within one stretch of time."""

    def __init__(self, http: httpx.Client, promise: Promise, is_there: Callable[[], bool], until: float) -> None:
        self._http, self.promise, self._is_there, self._until = http, promise, is_there, until

    def check(self, ask: Callable[[_Asker], SmokeCheck]) -> SmokeCheck:
        """The check, whatever happens to its question."""
        try:
            return ask(self)
        except _NoAnswer as exc:
            return failed(str(exc))
        except httpx.TimeoutException:
            return not_tried(f"no answer within {QUESTION_S:.0f} s")
        except httpx.HTTPError as exc:
            if not self._is_there():
                raise Lost(str(exc)) from exc
            return failed(f"the connection broke in the midst of the answer ({type(exc).__name__})")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return failed("its answer does not have the shape that clients read")

    def chat(self) -> tuple[SmokeCheck, Mapping[str, Any] | None]:
        """The first answer, which more than one check looks at; None where there is none."""
        answers: list[Mapping[str, Any]] = []

        def ask(_: _Asker) -> SmokeCheck:
            answers.append(self.post("/v1/chat/completions", self.question(GREETING, ANSWER_TOKENS)))
            return _answered(answers[0])

        return self.check(ask), answers[0] if answers else None

    def question(self, messages: list[dict[str, str]], tokens: int, **more: object) -> dict[str, object]:
        """A body of a chat."""
        return {"model": self.promise.name, "messages": messages, "max_tokens": tokens, "temperature": 0, **more}

    def get(self, path: str) -> Mapping[str, Any]:
        """JSON of a good answer."""
        return self._good(self._http.get(path, timeout=self._left()))

    def post(self, path: str, body: Mapping[str, object]) -> Mapping[str, Any]:
        """JSON of a good answer."""
        return self._good(self._http.post(path, json=body, timeout=self._left()))

    def lines(self, path: str, body: Mapping[str, object]) -> Iterator[str]:
        """The lines of a good answer, as they come."""
        until = time.monotonic() + self._left()
        with self._http.stream("POST", path, json=body, timeout=self._left()) as response:
            if not response.is_success:
                response.read()
                self._good(response)
            for line in response.iter_lines():
                yield line
                if time.monotonic() > until:
                    raise httpx.ReadTimeout("too slow")

    def _left(self) -> float:
        left = min(self._until - time.monotonic(), QUESTION_S)
        if left <= 0:
            raise httpx.PoolTimeout("no time left")
        return left

    def _good(self, response: httpx.Response) -> Mapping[str, Any]:
        if response.headers.get("x-bouchet-state") == "draining" or response.status_code == 503:
            raise Lost("it is ending")
        if not response.is_success:
            raise _NoAnswer(f"vLLM answered {response.status_code}: {_complaint(response)}")
        said: Mapping[str, Any] = response.json()
        return said


def passed(said: str) -> SmokeCheck:
    """Seen to be right."""
    return SmokeCheck(result="ok", message=said)


def failed(said: str) -> SmokeCheck:
    """Seen to be wrong."""
    return SmokeCheck(result="failed", message=said)


def not_tried(said: str) -> SmokeCheck:
    """Nothing can be said."""
    return SmokeCheck(result="not_tried", message=said)


def _answered(answer: Mapping[str, Any]) -> SmokeCheck:
    tokens = answer["usage"]["completion_tokens"]
    if not isinstance(answer["choices"][0]["message"], dict) or tokens < 1:
        return failed("its answer holds nothing")
    return passed(f"{tokens} tokens")


def _window(asker: _Asker) -> SmokeCheck:
    served = int(asker.get("/v1/models")["data"][0]["max_model_len"])
    asked = asker.promise.window
    if asked is not None and served != asked:
        return failed(f"vLLM serves {served} tokens, asked for were {asked}")
    return passed(f"{served} tokens")


def _count(asker: _Asker, answer: Mapping[str, Any] | None) -> SmokeCheck:
    body = {"model": asker.promise.name, "messages": GREETING, "add_generation_prompt": True}
    counted = int(asker.post("/tokenize", body)["count"])
    if answer is None:
        return passed(f"{counted} tokens, with no answer to compare them with") if counted else failed("it counts 0")
    charged = int(answer["usage"]["prompt_tokens"])
    if abs(counted - charged) > COUNT_SLACK:
        return failed(f"/tokenize counts {counted} tokens of a prompt for which {charged} were charged")
    return passed(f"{counted} tokens, charged {charged}")


def _stream(asker: _Asker) -> SmokeCheck:
    """In the dialect of Claude Code, whose streams end in `message_stop`."""
    body = {"model": asker.promise.name, "messages": GREETING, "max_tokens": ANSWER_TOKENS, "stream": True}
    events = 0
    for line in asker.lines("/v1/messages", body):
        if not line.startswith("data:"):
            continue
        event = json.loads(line[len("data:") :])
        events += 1
        if event["type"] == "message_stop":
            return passed(f"{events} events")
        if event["type"] == "error":
            return failed(f"the stream ends in an error: {_short(str(event['error'].get('message')))}")
    return failed(f"the stream ends after {events} events, before its message_stop")


def _thinking(promise: Promise, answer: Mapping[str, Any] | None) -> SmokeCheck:
    """Of the first answer, to which no switch was sent."""
    if promise.thinking == "none":
        return not_tried("the catalog does not call it a model that thinks")
    if answer is None:
        return not_tried("it gave no answer")
    message = answer["choices"][0]["message"]
    text = message.get("content") or ""
    thoughts = message.get("reasoning") or message.get("reasoning_content") or ""
    if promise.thinking == "off":
        if thoughts or "<think>" in text:
            return failed("it thinks unasked although the catalog says `thinking: off`")
        return passed("it does not think unasked")
    if promise.reasoning_parser and "<think>" in text:
        return failed(f"its thoughts stand in the text: {promise.reasoning_parser} did not part them from it")
    return passed("it thinks") if thoughts or "<think>" in text else not_tried("it did not think about so little")


def _tools(asker: _Asker) -> SmokeCheck:
    """A model may stumble once, and a failure takes its tools away: only what fails twice, then warmer, has failed."""
    parser = asker.promise.tool_parser
    if parser is None:
        return not_tried("the catalog names no tool parser")
    first = _tool_call(asker, parser, 0)
    if first.result != "failed":
        return first
    second = asker.check(lambda again: _tool_call(again, parser, WARMER))
    return second if second.result == "ok" else first


def _tool_call(asker: _Asker, parser: str, temperature: float) -> SmokeCheck:
    """First as clients ask, so that the parser has to read the model's own words; a model that only talks is forced."""
    message, ending = _tool_answer(asker, TOOLS, "auto", temperature)
    if message.get("tool_calls"):
        return _call_read(message, "a call that it made itself")
    if _CALL_AS_TEXT.search(message.get("content") or ""):
        text = _short(str(message["content"]))
        return failed(f"its call stayed text, so the parser {parser!r} does not fit it: {text}")
    if ending == "length":
        return not_tried(f"its answer was cut short after {CALL_TOKENS} tokens, before any call")
    return _forced(asker, parser, temperature)


def _forced(asker: _Asker, parser: str, temperature: float) -> SmokeCheck:
    try:
        message, ending = _tool_answer(asker, STRICT_TOOLS, "required", temperature)
    except _NoAnswer as exc:
        # it answered the same question unforced
        return not_tried(f"it made no call by itself, and a call cannot be forced: {exc}")
    if message.get("tool_calls"):
        return _call_read(message, "a forced call; by itself it made none")
    if ending == "length":
        return not_tried(f"a forced call was cut short after {CALL_TOKENS} tokens")
    return failed(f"even a forced call did not come as one (parser {parser!r})")


def _tool_answer(
    asker: _Asker, tools: list[dict[str, object]], choice: str, temperature: float
) -> tuple[Mapping[str, Any], str]:
    body = asker.question(CALL_IT, CALL_TOKENS, tools=tools, tool_choice=choice, temperature=temperature)
    choice_made = asker.post("/v1/chat/completions", body)["choices"][0]
    return choice_made["message"], str(choice_made.get("finish_reason"))


def _call_read(message: Mapping[str, Any], kind: str) -> SmokeCheck:
    function = message["tool_calls"][0]["function"]
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, TypeError):
        arguments = None
    if function["name"] != TOOL or not isinstance(arguments, dict):
        told = _short(f"{function['name']}({function['arguments']})")
        return failed(f"its call came as {told}, asked for was {TOOL} with JSON")
    return passed(kind)


def _complaint(response: httpx.Response) -> str:
    try:
        said = response.json()
        error = said.get("error", said)
        return _short(str(error.get("message", error) if isinstance(error, dict) else error))
    except (ValueError, AttributeError):
        return _short(response.text)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SAID_CHARACTERS else flat[: SAID_CHARACTERS - 3] + "..."
