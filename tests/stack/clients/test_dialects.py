"""curl and the two SDKs through proxy, tunnel and Slurm to a real vLLM."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.stack.conftest import SCRIPTED, SMALL
from tests.stack.harness import Stack

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
CALL = 'CALL[weather {"city": "Paris"}]'


@pytest.fixture
def claude(stack: Stack) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=stack.proxy_url, api_key=stack.key, max_retries=0) as client:
        yield client


@pytest.fixture
def gpt(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.proxy_url}/v1", api_key=stack.key, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("header", ["x-api-key: {key}", "Authorization: Bearer {key}"])
def test_curl_answers(stack: Stack, header: str) -> None:
    body = {
        "model": SMALL,
        "max_tokens": 24,
        "temperature": 0,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    }
    argv = ["curl", "-sS", "-m", "90", f"{stack.proxy_url}/v1/messages", "-H", header.format(key=stack.key)]
    done = subprocess.run(
        [*argv, "-H", "content-type: application/json", "-d", json.dumps(body)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    answer = json.loads(done.stdout)
    assert answer["type"] == "message" and "Paris" in answer["content"][0]["text"], done.stdout


@pytest.mark.usefixtures("scripted")
class TestAnthropic:
    def test_answer(self, claude: anthropic.Anthropic) -> None:
        answer = claude.messages.create(
            model=SCRIPTED, max_tokens=50, messages=[{"role": "user", "content": "SAY[hello from the node]"}]
        )
        assert answer.content[0].type == "text" and answer.content[0].text == "hello from the node"
        assert answer.stop_reason == "end_turn"
        assert answer.usage.input_tokens > 0 and answer.usage.output_tokens > 0

    def test_stream(self, claude: anthropic.Anthropic) -> None:
        with claude.messages.stream(
            model=SCRIPTED, max_tokens=200, messages=[{"role": "user", "content": "COUNT[20]"}]
        ) as stream:
            pieces = list(stream.text_stream)
        assert len(pieces) > 5
        assert "".join(pieces) == " ".join(str(n) for n in range(1, 21))

    @pytest.mark.parametrize("streamed", [False, True])
    def test_tool_call_and_result(self, claude: anthropic.Anthropic, streamed: bool) -> None:
        tools: Any = [{"name": "weather", "description": "Weather of a city", "input_schema": WEATHER}]
        messages: list[Any] = [{"role": "user", "content": CALL}]
        request: dict[str, Any] = {"model": SCRIPTED, "max_tokens": 200, "tools": tools}
        if streamed:
            with claude.messages.stream(messages=messages, **request) as stream:
                first = stream.get_final_message()
        else:
            first = claude.messages.create(messages=messages, **request)
        call = next(block for block in first.content if block.type == "tool_use")
        assert (call.name, call.input, first.stop_reason) == ("weather", {"city": "Paris"}, "tool_use")
        messages += [
            {"role": "assistant", "content": [block.model_dump() for block in first.content]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "18 degrees"}]},
        ]
        second = claude.messages.create(messages=messages, **request)
        assert second.content[0].type == "text" and "18 degrees" in second.content[0].text

    def test_claude_name_is_served(self, claude: anthropic.Anthropic) -> None:
        answer = claude.messages.create(
            model="claude-sonnet-9-20300101", max_tokens=20, messages=[{"role": "user", "content": "SAY[yes]"}]
        )
        assert answer.type == "message"

    def test_max_tokens_beyond_window_is_clamped(self, claude: anthropic.Anthropic) -> None:
        answer = claude.messages.create(
            model=SCRIPTED, max_tokens=200_000, messages=[{"role": "user", "content": "SAY[fits]"}], timeout=60
        )
        assert answer.content[0].type == "text" and answer.content[0].text == "fits"

    def test_count_tokens_uses_model_tokenizer(self, claude: anthropic.Anthropic) -> None:
        messages: list[Any] = [{"role": "user", "content": "SAY[count me in, every word of it]"}]
        counted = claude.messages.count_tokens(model=SCRIPTED, messages=messages)
        answered = claude.messages.create(model=SCRIPTED, max_tokens=20, messages=messages)
        assert counted.input_tokens == answered.usage.input_tokens

    def test_prompt_too_long_is_anthropic_error(self, claude: anthropic.Anthropic) -> None:
        with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > \d+ maximum"):
            claude.messages.create(model=SMALL, max_tokens=10, messages=[{"role": "user", "content": "word " * 20_000}])


@pytest.mark.usefixtures("scripted")
class TestOpenAI:
    def test_answer(self, gpt: openai.OpenAI) -> None:
        answer = gpt.chat.completions.create(
            model=SCRIPTED, max_tokens=50, messages=[{"role": "user", "content": "SAY[hello from the node]"}]
        )
        assert answer.choices[0].message.content == "hello from the node"
        assert answer.usage is not None and answer.usage.completion_tokens > 0

    def test_stream(self, gpt: openai.OpenAI) -> None:
        stream = gpt.chat.completions.create(
            model=SCRIPTED, max_tokens=200, stream=True, messages=[{"role": "user", "content": "COUNT[20]"}]
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert "".join(pieces) == " ".join(str(n) for n in range(1, 21))

    @pytest.mark.parametrize("streamed", [False, True])
    def test_tool_call(self, gpt: openai.OpenAI, streamed: bool) -> None:
        tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
        request: dict[str, Any] = {"model": SCRIPTED, "max_tokens": 200, "tools": tools}
        messages: Any = [{"role": "user", "content": CALL}]
        if streamed:
            name, arguments = "", ""
            for chunk in gpt.chat.completions.create(messages=messages, stream=True, **request):
                for call in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
                    name += (call.function and call.function.name) or ""
                    arguments += (call.function and call.function.arguments) or ""
        else:
            answer = gpt.chat.completions.create(messages=messages, **request)
            function = (answer.choices[0].message.tool_calls or [])[0].function
            name, arguments = function.name, function.arguments
        assert (name, json.loads(arguments)) == ("weather", {"city": "Paris"})

    def test_full_model_id_is_served(self, gpt: openai.OpenAI) -> None:
        answer = gpt.chat.completions.create(
            model="demo/scripted", max_tokens=20, messages=[{"role": "user", "content": "SAY[by id]"}]
        )
        assert answer.choices[0].message.content == "by id"

    def test_plain_completions(self, gpt: openai.OpenAI) -> None:
        answer = gpt.completions.create(model=SMALL, prompt="The capital of France is", max_tokens=8, temperature=0)
        assert answer.choices[0].text.strip()

    def test_scoring_prefers_the_right_continuation(self, gpt: openai.OpenAI) -> None:
        """As lm-evaluation-harness compares the answers of a question: by the log-probabilities of a prompt."""
        question, answers = "The capital of France is", (" Paris", " Banana")
        prompts = [question + answer for answer in answers]
        scored = gpt.completions.create(
            model=SMALL, prompt=prompts, max_tokens=0, echo=True, logprobs=1, temperature=0, seed=1234
        )
        assert [choice.text for choice in scored.choices] == prompts
        sums: list[float] = []
        for choice in scored.choices:
            assert choice.logprobs is not None and choice.logprobs.token_logprobs is not None
            first, *rest = choice.logprobs.token_logprobs
            # the first token has nothing before it
            assert first is None and None not in rest and choice.logprobs.tokens
            sums.append(sum(rest[len(question.split()) - 1 :]))
        assert sums[0] > sums[1]
        one = gpt.completions.create(
            model=SMALL, prompt=[[1, 2, 3]], max_tokens=1, echo=True, logprobs=1, temperature=0, seed=1234
        )
        assert one.choices[0].logprobs is not None and len(one.choices[0].logprobs.token_logprobs or []) == 4

    def test_models_list(self, gpt: openai.OpenAI) -> None:
        assert {SMALL, SCRIPTED} <= {model.id for model in gpt.models.list()}
