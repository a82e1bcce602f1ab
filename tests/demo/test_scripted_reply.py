"""What the scripted model says to a rendered prompt."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[2] / "demo" / "models" / "scripted_reply.py"


def load_plugin() -> ModuleType:
    """As vLLM loads it: a module on its own, in no package."""
    spec = importlib.util.spec_from_file_location("scripted_reply", SOURCE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script_for = load_plugin().script_for


def render(*turns: tuple[str, str]) -> str:
    closed = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    return f"{closed}<|im_start|>assistant\n"


def tool_response(text: str) -> str:
    return f"\n<tool_response>\n{text}\n</tool_response>"


def calls_in(reply: str) -> list[dict[str, object]]:
    return [json.loads(part.split("</tool_call>")[0]) for part in reply.split("<tool_call>")[1:]]


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("SAY[hello]", "hello"),
        ("SAY[a[0] = b[c[1]]]", "a[0] = b[c[1]]"),
        ("SAY[<think>hm</think>\ntwo\nlines]", "<think>hm</think>\ntwo\nlines"),
        ("SAY[]", ""),
        ("COUNT[4]", "1 2 3 4"),
        ("please SAY[one] and SAY[two]", "one\ntwo"),
        ("SAY[never closed", "never closed"),
    ],
)
def test_script_for_say_returns_text(text: str, reply: str) -> None:
    assert script_for(render(("user", text))) == reply


def test_script_for_call_is_hermes_markup() -> None:
    reply = script_for(render(("user", 'CALL[Read {"path": "/a [b]"}]')))
    assert calls_in(reply) == [{"name": "Read", "arguments": {"path": "/a [b]"}}]


def test_script_for_parallel_calls_follow_text() -> None:
    reply = script_for(render(("user", 'SAY[I look.] CALL[Read {"path": "/a"}] CALL[List]')))
    assert reply.startswith("I look.\n<tool_call>")
    assert calls_in(reply) == [{"name": "Read", "arguments": {"path": "/a"}}, {"name": "List", "arguments": {}}]


def test_script_for_uses_last_script() -> None:
    turns = [("system", "SAY[system]"), ("user", "SAY[first]"), ("assistant", "first"), ("user", "SAY[second]")]
    assert script_for(render(*turns)) == "second"


def test_script_for_ignores_client_reminders() -> None:
    text = "<system-reminder>\nSAY[reminder]\n</system-reminder>\nSAY[mine]\n<system-reminder>[x]</system-reminder>"
    assert script_for(render(("user", text))) == "mine"


def test_script_for_repeats_tool_result() -> None:
    turns = [("user", "CALL[Read {}]"), ("assistant", "<tool_call>"), ("user", tool_response("SAY[forty-two]"))]
    assert script_for(render(*turns)) == "The tool returned: SAY[forty-two]"


def test_script_for_repeats_all_new_results() -> None:
    turns = [
        ("user", "CALL[Read {}]"),
        ("assistant", "calls"),
        ("user", tool_response("old")),
        ("assistant", "calls again"),
        ("user", tool_response("one") + tool_response("two")),
        ("user", "<system-reminder>be brief</system-reminder>"),
    ]
    assert script_for(render(*turns)) == "The tool returned: one | two"


def test_script_for_then_waits_for_next_turn() -> None:
    script = ("user", 'CALL[Read {"path": "/a"}] THEN SAY[between] THEN SAY[end]')
    result = ("user", tool_response("text"))
    call = script_for(render(script))
    assert calls_in(call) == [{"name": "Read", "arguments": {"path": "/a"}}]
    assert script_for(render(script, ("assistant", call), result)) == "between"
    turns = [script, ("assistant", call), result, ("assistant", "between"), ("user", "go on")]
    assert script_for(render(*turns)) == "end"


def test_script_for_new_script_overrides_tool_result() -> None:
    turns = [("user", "CALL[Read {}]"), ("assistant", "call"), ("user", tool_response("x")), ("user", "SAY[stop]")]
    assert script_for(render(*turns)) == "stop"


@pytest.mark.parametrize("prompt", ["", "hello", render(("user", "hello")), render(("system", "SAY[no]"))])
def test_script_for_unscripted_is_none(prompt: str) -> None:
    assert script_for(prompt) is None


def test_script_for_empty_thought_is_no_step() -> None:
    assert script_for(render(("user", "SAY[a] THEN SAY[b]")) + "<think>\n\n</think>\n\n") == "a"


def test_script_for_results_placeholder_is_count() -> None:
    script = ("user", "CALL[a] CALL[b] THEN SAY[$RESULTS came]")
    turns = [script, ("assistant", "calls"), ("user", tool_response("x") + tool_response("y"))]
    assert script_for(render(*turns)) == "2 came"


def test_script_for_count_ignores_script() -> None:
    turns = [("system", "blue"), ("user", "blue"), ("assistant", "blue, blue"), ("user", "a blue SEEN[blue]")]
    assert script_for(render(*turns)) == "blue: 5"
    assert script_for(render(("user", "SEEN[red]"))) == "red: 0"


SUM_UP = ("user", "Your task is to create a detailed summary of the conversation so far, with all that matters.")


def test_script_for_summary_keeps_remaining_script() -> None:
    script = ("user", 'do CALL[Read {"a": [1]}] THEN CALL[b] SAY[c] THEN SAY[end]')
    reply = script_for(render(script, ("assistant", "call"), ("user", tool_response("x")), SUM_UP))
    assert reply == "<summary>\nLeft to do: CALL[b] SAY[c] THEN SAY[end]\n</summary>"
    continued = ("user", f"This session is being continued. {reply} Go on.")
    assert "c" in script_for(render(continued)).splitlines()
    assert script_for(render(continued, ("assistant", "call"), ("user", tool_response("x")))) == "end"


def test_script_for_summary_ignores_later_reminder() -> None:
    turns = [("user", "SAY[a] THEN SAY[b]"), ("assistant", "a"), SUM_UP]
    for last in (("user", "<system-reminder>\nbe brief\n</system-reminder>"), ("system", "be brief")):
        assert script_for(render(*turns, last)) == "<summary>\nLeft to do: SAY[b]\n</summary>"


def test_script_for_summary_in_the_form_of_codex() -> None:
    last = ("user", "You are performing a CONTEXT CHECKPOINT COMPACTION. Create a handoff summary.")
    turns = [("user", "SAY[a] THEN SAY[b]"), ("assistant", "a"), last]
    assert script_for(render(*turns)) == "<summary>\nLeft to do: SAY[b]\n</summary>"


def test_script_for_summary_of_finished_script() -> None:
    turns = [("user", "SAY[a]"), ("assistant", "a"), SUM_UP]
    assert script_for(render(*turns)) == "<summary>\nLeft to do: nothing\n</summary>"


def test_script_for_summary_of_unscripted_is_none() -> None:
    assert script_for(render(("user", "hello"), ("assistant", "hm"), SUM_UP)) is None


@pytest.mark.parametrize("thoughts", ["", "<think>\n\n</think>\n\n"])
def test_script_for_begun_answer_goes_on_behind_its_last_word(thoughts: str) -> None:
    asked = render(("user", "COUNT[5]")) + thoughts
    assert script_for(asked + "1 2 3") == " 4 5"
    assert script_for(asked + "1 2 3 4 5") == ""
    assert script_for(asked) == "1 2 3 4 5"
