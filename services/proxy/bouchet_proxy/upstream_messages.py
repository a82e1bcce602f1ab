"""vLLM's messages about what is wrong with a request, as a sentence for the client and a next step. Pure.

vLLM quotes its validation library, and names options of its command line that a client cannot set. The same library
also checks what a model wrote: then the status says that the request is wrong, although the answer is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_FIELDS = 3
MAX_SENTENCE_CHARS = 200
INVALID_ANSWER = "invalid_answer"

# `1 validation error:\n  {'type': 'missing', 'loc': 'body.tools.0.function', 'msg': 'Field required', ...}`
_LISTED = re.compile(r"^\d+ validation errors?:\s", re.I)
_ENTRY = re.compile(r"""'loc': (\([^()]{0,400}\)|'[^']{0,400}'), 'msg': ('[^'\n]{0,600}'|"[^"\n]{0,600}")""")
# `2 validation errors for ChatCompletionStreamResponse\nmodel\n  Field required [type=missing, input_value=...]`
_TITLED = re.compile(r"^\d+ validation errors? for (?P<title>[\w\[\], ]{1,80})\n(?P<rest>.*)", re.S)
_FIELD = re.compile(r"^(?P<path>\S[^\n]{0,200})\n[ ]{2}(?P<text>[^\n\[]{1,300})(?: \[type=|$)", re.M)
# a sentence about a variable of the server's environment, which no client can set
_SERVER_SETTING = re.compile(r"(?:(?<=\.)|^)[^.]{0,300}\bVLLM_[A-Z_]{2,80}\b[^.]{0,300}\.?")
# names of the library's models that describe an answer; all others describe a request
_OF_ANSWERS = re.compile(r"(?:Response|Block|Chunk|Choice|Event|Delta|Output|Usage)$")
_TAGS = re.compile(r"^(?:body|query|[a-z-]+\[.*\]|[A-Z]\w*|str|int|float|bool|dict|list.*|constrained-.*|function-.*)$")
# of a value that may have several types: says the least
_OTHER_TYPE = "input should be a valid"
_TOO_MANY = re.compile(r"list should have at most (\d+) items? after validation, not (\d+)")
# servers that follow OpenAI's limit: `Invalid 'stop': array too long. Expected an array with maximum length 4`
_STOPS = re.compile(
    r"\bstop(?:_sequences)?\b.{0,100}?\b(?:at most|up to|maximum length|maximum of|more than)\W{0,3}"
    r"(?P<most>\d{1,4})\b",
    re.I | re.S,
)
_NEVER_SENT = ("Value error, ",)
# what vLLM adds to a sentence of its own: `top_p must be in (0, 1], got 0.0. (parameter=top_p, value=0.0)`
_PARAMETER = re.compile(r"\s*\(parameter=(?P<name>[\w.\[\]]{1,80})(?:, value=.*)?\)\s*$", re.S)


@dataclass(frozen=True, slots=True)
class PlainError:
    """What is wrong. param: the field, '' if it is none of the request; is_answer: the model's answer is at fault."""

    message: str
    param: str = ""
    is_answer: bool = False


def plain_message(text: str) -> PlainError | None:
    """Return the error in plain terms, None where vLLM's own is plain."""
    if _LISTED.match(text):
        return _from_fields(list(_listed_fields(text)))
    if found := _TITLED.match(text):
        fields = [(_path(one["path"].split(".")), one["text"].strip()) for one in _FIELD.finditer(found["rest"])]
        if _OF_ANSWERS.search(found["title"]):
            return PlainError(_invalid_answer(fields), is_answer=True)
        return _from_fields(fields)
    if found := _STOPS.search(text):
        return PlainError(_STOPS_SENTENCE.format(found["most"]), "stop")
    if _SERVER_SETTING.search(text) and (rest := _SERVER_SETTING.sub("", text).strip()):
        return PlainError(rest)
    for pattern, sentence in _SENTENCES:
        if pattern.search(text):
            return PlainError(sentence.format(_shorten(text)))
    if found := _PARAMETER.search(text):
        return PlainError(text[: found.start()], found["name"])
    return None


def _listed_fields(text: str) -> Iterator[tuple[str, str]]:
    for place, message in _ENTRY.findall(text):
        try:
            parts, problem = ast.literal_eval(place), ast.literal_eval(message)
        except (ValueError, SyntaxError):
            continue
        yield _path(parts.split(".") if isinstance(parts, str) else [str(part) for part in parts]), str(problem)


def _path(parts: list[str]) -> str:
    """Return the path of a field as this proxy writes it: `tools[0].function`, without the library's own steps."""
    path = ""
    for part in parts:
        if part.isdigit():
            path += f"[{part}]"
        elif not _TAGS.match(part):
            path += f".{part}" if path else part
    return path


def _from_fields(fields: list[tuple[str, str]]) -> PlainError:
    """Return the first fields that are wrong, each once: a value that may be of several types is listed with each."""
    found: dict[str, str] = {}
    for path, text in fields:
        for prefix in _NEVER_SENT:
            text = text.removeprefix(prefix)
        problem = text[:1].lower() + text[1:MAX_SENTENCE_CHARS]
        if path not in found or (found[path].startswith(_OTHER_TYPE) and not problem.startswith(_OTHER_TYPE)):
            found[path] = problem
    if not found:
        return PlainError("the request has a field of another type than this API defines; see the API's reference")
    # a value of several types is listed with each: what is wrong inside it says more than that it is no text
    inner = {path: text for path, text in found.items() if not any(_is_inside(other, path) for other in found)}
    shown = [f"{path or 'body'}: {_plain_problem(text)}" for path, text in list(inner.items())[:MAX_FIELDS]]
    more = f" (and {len(inner) - MAX_FIELDS} more)" if len(inner) > MAX_FIELDS else ""
    return PlainError("; ".join(shown) + more, next(iter(inner)))


def _is_inside(path: str, outer: str) -> bool:
    return path.startswith((f"{outer}.", f"{outer}["))


def _plain_problem(text: str) -> str:
    if text == "field required":
        return "is missing"
    if found := _TOO_MANY.match(text):
        return f"at most {found[1]} are possible with this server, not {found[2]}"
    return text


def _invalid_answer(fields: list[tuple[str, str]]) -> str:
    places = [path for path, _ in fields]
    if "input" in places:
        return (
            "the model called a tool with arguments that are not a JSON object; retry, or describe the tool's "
            "parameters more closely"
        )
    return "the model's server could not put its answer into the form of this API; retry, and check `bouchet logs`"


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_SENTENCE_CHARS else f"{line[:MAX_SENTENCE_CHARS]}..."


_STOPS_SENTENCE = (
    "stop: at most {} stop strings are possible with this server; send fewer (`stop_sequences` at /v1/messages)"
)
_SENTENCES = (
    (
        # Python's own words about a value of another type than vLLM expects
        re.compile(r"^'\w{1,40}' object (?:has no attribute|is not|does not support)|^\w{0,40} ?indices must be"),
        "the model's server failed on this request: a field has a type that it does not expect, probably in a tool, "
        "`chat_template_kwargs` or `structured_outputs`; compare them with the API's reference",
    ),
    (
        re.compile(r"^Internal [Ss]erver [Ee]rror\.?$"),
        "the model's server failed on this request; retry, and check `bouchet logs` if it fails again",
    ),
    (
        re.compile(r"--enable-auto-tool-choice|--tool-call-parser"),
        "tools: this model was launched without a tool parser; leave tools out, or set `tool_parser` in models.yaml "
        "and launch it again",
    ),
    (
        re.compile(r"--reasoning-parser|reasoning[ _]parser"),
        "thinking: this model was launched without a reasoning parser; leave thinking out, or set `reasoning_parser` "
        "in models.yaml and launch it again",
    ),
    (
        re.compile(r"[Ii]nvalid grammar|Grammar error|Failed to (?:compile|convert).{0,60}grammar|structural_tag"),
        "the output format cannot be combined with these tools or has a schema that the model's server cannot enforce; "
        "leave out `strict`, the format or the tools, or simplify the schema (vLLM: {})",
    ),
    (
        re.compile(r"chat template|TemplateError|jinja2"),
        "the model's chat template refuses these messages; check their roles and order (vLLM: {})",
    ),
    (
        re.compile(r"trust[-_]request[-_]\w+|--[a-z]+(?:-[a-z]+)+"),
        "the request asks for something that this model was launched without: {}; leave it out, or launch the model "
        "with the option in `extra_args` of models.yaml",
    ),
)
