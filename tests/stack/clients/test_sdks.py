"""What the SDKs offer beyond a plain call, used against the whole chain as its documentation shows it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

import anthropic
import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.stack.clients.claude_code import call
from tests.stack.conftest import SCRIPTED, SMALL
from tests.stack.harness import Stack
from tests.stack.relay import Relay
from tests.waiting import wait_for

pytestmark = pytest.mark.usefixtures("scripted")

PARIS, ROME = call("weather", city="Paris"), call("weather", city="Rome")
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [
    {"name": "weather", "description": "Weather of a city", "input_schema": SCHEMA},
    {"name": "clock", "description": "Time of a city", "input_schema": SCHEMA},
]
FUNCTIONS: Any = [{"type": "function", "function": {"name": t["name"], "parameters": SCHEMA}} for t in TOOLS]
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


class Choice(BaseModel):
    """An answer that a grammar can force out of any model soon."""

    colour: Literal["red", "green"]
    sure: bool


def message(text: str, **fields: Any) -> dict[str, Any]:
    """Make a request for either SDK."""
    return {"model": SCRIPTED, "max_tokens": 200, "messages": [{"role": "user", "content": text}], **fields}


@pytest.fixture
def hasty_key(stack: Stack) -> Iterator[str]:
    """Make a key that allows one request per minute."""
    made = stack.bouchet("keys", "add", "hasty", "--requests-per-minute", "1", "--json")
    assert made.status == 0, made.output
    key = str(json.loads(made.stdout)["key"])
    models = f"{stack.proxy_url}/v1/models"
    wait_for(lambda: httpx.get(models, headers={"x-api-key": key}, timeout=30).status_code == 200, 60)
    yield key
    stack.bouchet("keys", "revoke", "hasty")


def until_refused(ask: Callable[[], object]) -> None:
    """Send more requests than any limit of these tests allows."""
    for _ in range(4):
        ask()


@pytest.fixture
def claude(stack: Stack, relay: Relay) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=relay.url, api_key=stack.key, max_retries=0) as client:
        yield client


@pytest.fixture
def gpt(stack: Stack, relay: Relay) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{relay.url}/v1", api_key=stack.key, max_retries=0) as client:
        yield client


class TestLimits:
    def test_rate_limit_is_sdk_error(self, stack: Stack, hasty_key: str) -> None:
        with (
            anthropic.Anthropic(base_url=stack.proxy_url, api_key=hasty_key, max_retries=0) as claude,
            openai.OpenAI(base_url=f"{stack.proxy_url}/v1", api_key=hasty_key, max_retries=0) as gpt,
        ):
            with pytest.raises(anthropic.RateLimitError) as caught:
                until_refused(lambda: claude.messages.create(**message("SAY[one]")))
            assert int(caught.value.response.headers["retry-after"]) > 0
            with pytest.raises(openai.RateLimitError):
                until_refused(lambda: gpt.chat.completions.create(**message("SAY[one]")))


class TestAnthropic:
    def test_stream_helper_collects_message(self, claude: anthropic.Anthropic) -> None:
        with claude.messages.stream(**message(f"SAY[Let me see.] {PARIS} {ROME}", tools=TOOLS)) as stream:
            kinds = [event.type for event in stream]
            gathered = stream.get_final_message()
        assert [block.type for block in gathered.content] == ["text", "tool_use", "tool_use"]
        assert [block.input for block in gathered.content if block.type == "tool_use"] == [
            {"city": "Paris"},
            {"city": "Rome"},
        ]
        assert gathered.stop_reason == "tool_use" and gathered.usage.output_tokens > 10
        assert {"text", "input_json", "content_block_stop", "message_stop"} <= set(kinds)

    @pytest.mark.parametrize("streamed", [False, True])
    def test_tool_runner_runs_to_end(self, claude: anthropic.Anthropic, streamed: bool) -> None:
        asked: list[str] = []

        @anthropic.beta_tool
        def weather(city: str) -> str:
            """Return the weather of a city."""
            asked.append(city)
            return f"18 degrees in {city}"

        request = message(f"{PARIS} {ROME} THEN {call('weather', city='Oslo')} THEN SEEN[18 degrees]")
        runner = claude.beta.messages.tool_runner(**request, tools=[weather], stream=streamed)
        final = runner.until_done()
        assert asked == ["Paris", "Rome", "Oslo"]
        assert final.content[0].type == "text" and final.content[0].text == "18 degrees: 3"

    def test_structured_output(self, claude: anthropic.Anthropic) -> None:
        answer = claude.messages.parse(**message("What colour?"), output_format=Choice)
        assert isinstance(answer.parsed_output, Choice), answer

    def test_structured_output_streamed(self, claude: anthropic.Anthropic) -> None:
        with claude.messages.stream(**message("What colour?"), output_format=Choice) as stream:
            assert isinstance(stream.get_final_message().parsed_output, Choice)

    @pytest.mark.parametrize("choice", ["auto", "any", "tool", "none"])
    def test_tool_choice_kinds(self, claude: anthropic.Anthropic, choice: str) -> None:
        wanted: Any = {"type": choice, **({"name": "clock"} if choice == "tool" else {})}
        forced = choice in ("any", "tool")
        text = call("clock", city="Rome") if forced else "SAY[plain]"
        answer = claude.messages.create(**message(text, tools=TOOLS, tool_choice=wanted))
        used = [block.name for block in answer.content if block.type == "tool_use"]
        assert bool(used) == forced
        assert choice != "tool" or set(used) == {"clock"}

    def test_stop_reason_names_sequence_and_limit(self, claude: anthropic.Anthropic) -> None:
        stopped = claude.messages.create(**message("SAY[one two three]", stop_sequences=["two"]))
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "two")
        cut = claude.messages.create(**{**message("COUNT[50]"), "max_tokens": 5})
        assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 5

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"system": "be brief"},
            {"system": [{"type": "text", "text": "be"}, {"type": "text", "text": "x-anthropic-billing-header: a=1"}]},
            {"tools": TOOLS},
            {"tools": [*TOOLS, {"type": "web_search_20250305", "name": "web_search"}]},
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            {"thinking": {"type": "disabled"}},
        ],
        ids=["plain", "system", "billing", "tools", "server tool", "thinking", "no thinking"],
    )
    def test_count_tokens_matches_usage(self, claude: anthropic.Anthropic, fields: dict[str, Any]) -> None:
        turns: list[Any] = [
            {"role": "user", "content": [{"type": "text", "text": "look"}, IMAGE]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "clock", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [IMAGE]}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
            {"role": "user", "content": "SAY[ok]"},
        ]
        request: dict[str, Any] = {"model": SCRIPTED, "messages": turns, **fields}
        counted = claude.messages.count_tokens(**request).input_tokens
        usage = claude.messages.create(**request, max_tokens=2000).usage
        cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
        assert counted == usage.input_tokens + cached

    def test_errors_are_sdk_classes(self, stack: Stack, claude: anthropic.Anthropic) -> None:
        with (
            anthropic.Anthropic(base_url=stack.proxy_url, api_key="wrong", max_retries=0) as wrong,
            pytest.raises(anthropic.AuthenticationError, match="API key"),
        ):
            wrong.messages.create(**message("x"))
        with pytest.raises(anthropic.NotFoundError, match="gpt-99"):
            claude.messages.create(**{**message("x"), "model": "gpt-99"})
        with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
            claude.messages.create(**{**message("x"), "max_tokens": -1})
        with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 65536 maximum"):
            claude.messages.create(**message("word " * 70_000, stream=True))

    def test_concurrent_requests(self, stack: Stack, relay: Relay) -> None:
        async def ask() -> list[str]:
            async with anthropic.AsyncAnthropic(base_url=relay.url, api_key=stack.key, max_retries=0) as client:

                async def one(number: int) -> str:
                    async with client.messages.stream(**message(f"SAY[number {number}] ")) as stream:
                        return await stream.get_final_text()

                return await asyncio.gather(*(one(number) for number in range(8)))

        assert asyncio.run(ask()) == [f"number {number}" for number in range(8)]


class TestOpenAI:
    def test_stream_helper_collects_completion(self, gpt: openai.OpenAI) -> None:
        with gpt.chat.completions.stream(**message(f"{PARIS} {ROME}", tools=FUNCTIONS)) as stream:
            kinds = {event.type for event in stream}
            gathered = stream.get_final_completion().choices[0].message
        assert [json.loads(c.function.arguments)["city"] for c in gathered.tool_calls or []] == ["Paris", "Rome"]
        assert "tool_calls.function.arguments.done" in kinds

    def test_stream_usage(self, gpt: openai.OpenAI) -> None:
        asked = message("COUNT[5]", stream=True, stream_options={"include_usage": True})
        *_, last = gpt.chat.completions.create(**asked)
        assert last.usage is not None and last.usage.completion_tokens > 5

    def test_parallel_tool_results(self, gpt: openai.OpenAI) -> None:
        first = gpt.chat.completions.create(**message(f"{PARIS} {ROME} THEN SAY[$RESULTS came]", tools=FUNCTIONS))
        calls = first.choices[0].message.tool_calls or []
        assert first.choices[0].finish_reason == "tool_calls" and len({call.id for call in calls}) == 2
        turns = message(f"{PARIS} {ROME} THEN SAY[$RESULTS came]", tools=FUNCTIONS)
        turns["messages"] += [first.choices[0].message.model_dump(exclude_none=True)]
        turns["messages"] += [{"role": "tool", "tool_call_id": call.id, "content": "mild"} for call in calls]
        assert gpt.chat.completions.create(**turns).choices[0].message.content == "2 came"

    def test_structured_output(self, gpt: openai.OpenAI) -> None:
        parsed = gpt.chat.completions.parse(**message("What colour?"), response_format=Choice)
        assert isinstance(parsed.choices[0].message.parsed, Choice)

    @pytest.mark.parametrize("choice", ["auto", "required", "named", "none"])
    def test_tool_choice_kinds(self, gpt: openai.OpenAI, choice: str) -> None:
        wanted: Any = {"type": "function", "function": {"name": "clock"}} if choice == "named" else choice
        forced = choice in ("required", "named")
        answer = gpt.chat.completions.create(
            **message("hello" if forced else "SAY[plain]", tools=FUNCTIONS, tool_choice=wanted)
        )
        used = [call.function.name for call in answer.choices[0].message.tool_calls or []]
        assert bool(used) == forced
        assert choice != "named" or set(used) == {"clock"}

    def test_responses(self, gpt: openai.OpenAI) -> None:
        answer = gpt.responses.create(model=SCRIPTED, input="SAY[by response]", max_output_tokens=50)
        assert answer.output_text == "by response" and answer.status == "completed"
        with gpt.responses.stream(model=SCRIPTED, input="COUNT[9]", max_output_tokens=100) as stream:
            pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
            final = stream.get_final_response()
        assert "".join(pieces) == final.output_text == "1 2 3 4 5 6 7 8 9"

    def test_a_streamed_completion(self, gpt: openai.OpenAI) -> None:
        stream = gpt.completions.create(model=SMALL, prompt="The capital of France is", max_tokens=8, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream).strip()

    def test_errors_are_sdk_classes(self, stack: Stack, gpt: openai.OpenAI) -> None:
        with (
            openai.OpenAI(base_url=f"{stack.proxy_url}/v1", api_key="wrong", max_retries=0) as wrong,
            pytest.raises(openai.AuthenticationError),
        ):
            wrong.chat.completions.create(**message("x"))
        with pytest.raises(openai.NotFoundError):
            gpt.chat.completions.create(**{**message("x"), "model": "gpt-99"})
        with pytest.raises(openai.BadRequestError) as caught:
            gpt.chat.completions.create(**message("word " * 70_000))
        assert caught.value.code == "context_length_exceeded"

    def test_concurrent_requests(self, stack: Stack, relay: Relay) -> None:
        async def ask() -> list[str | None]:
            async with openai.AsyncOpenAI(base_url=f"{relay.url}/v1", api_key=stack.key, max_retries=0) as client:
                asked = [client.chat.completions.create(**message(f"SAY[number {number}]")) for number in range(8)]
                return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

        assert asyncio.run(ask()) == [f"number {number}" for number in range(8)]
