"""The pure parts of the command."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bouchet_cli.chat.conversation import Conversation, text_of, unfinished
from bouchet_cli.chat.stream import Piece, pieces
from bouchet_cli.client.api import parse_messages
from bouchet_cli.client.errors import CommandError, NotReadyError, UnreachableError, UsageError
from bouchet_cli.client.records import Deployment
from bouchet_cli.client.settings import parse_env_file, read_settings
from bouchet_cli.integrations.claude_env import (
    answer_tokens,
    claude_environment,
    foreign_variables,
    name_warning,
    shell_lines,
    window_warning,
)
from bouchet_cli.legacy_flags import translate
from bouchet_cli.select import on_its_way, ready_one
from bouchet_cli.view.line import Line, cells, clean, cut
from bouchet_cli.view.tables import duration, starts, table, tokens
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def deployment(identity: str, phase: str = "ready", **fields: Any) -> Deployment:
    raw = {
        "id": identity,
        "model": f"Org/{identity}",
        "names": [f"bouchet-{identity}", f"Org/{identity}"],
        "phase": phase,
        "created_at": NOW.isoformat(),
        "updated_at": NOW.isoformat(),
        "jobs": [{"window": 262144}],
        **fields,
    }
    return Deployment.from_json(raw)


@pytest.mark.parametrize(
    ("phase", "ending", "standing"),
    [
        ("ready", None, "ready"),
        ("ended", "failed", "failed"),
        ("ended", None, "ended"),
        # "idle" alone would read as if it still ran
        ("ended", "idle", "ended"),
    ],
)
def test_what_has_ended_does_not_look_alive(phase: str, ending: str | None, standing: str) -> None:
    assert deployment("a", phase, ending=ending).standing == standing


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--launch --model X --gpus 1", "launch --claude-on-terminal --model X --gpus 1"),
        ("--model X --launch", "launch --claude-on-terminal --model X"),
        ("--status --json", "status --json"),
        ("--cancel", "cancel"),
        ("--tunnel", "tunnel"),
        ("--model X", "--model X"),
        ("launch X --name --status", "launch X --name --status"),
        ("", ""),
    ],
)
def test_older_spellings(old: str, new: str) -> None:
    assert translate(old.split()) == new.split()


def test_two_older_commands_at_once_are_refused() -> None:
    with pytest.raises(UsageError, match="--status and --cancel"):
        translate(["--status", "--cancel"])


def test_env_file(tmp_path: Path) -> None:
    text = "# c\n\nexport A=1\nB='two words'\nC=\"x\"\nD=v # note\nE=\nno line\n"
    assert parse_env_file(text) == {"A": "1", "B": "two words", "C": "x", "D": "v", "E": ""}
    (tmp_path / ".env").write_text("BOUCHET_API_KEY=from-file\nAPI_PORT=5001\n")
    read = read_settings({}, tmp_path)
    assert (read.api_url, read.proxy_url, read.key) == ("http://127.0.0.1:5001", "http://127.0.0.1:4000", "from-file")
    assert "from-file" not in repr(read)
    outranked = read_settings({"BOUCHET_API_KEY": "k", "BOUCHET_API_URL": "http://x"}, tmp_path)
    assert (outranked.key, outranked.api_url) == ("k", "http://x")
    (tmp_path / "other").write_text("BOUCHET_API_KEY=other\n")
    assert read_settings({"BOUCHET_ENV_FILE": "other"}, tmp_path).key == "other"
    assert read_settings({"BOUCHET_ENV_FILE": str(tmp_path / "other")}, Path("/nowhere")).key == "other"
    with pytest.raises(UnreachableError, match="make up"):
        read_settings({}, tmp_path / "nowhere")


def test_the_newest_ready_one_is_meant_and_what_is_not_ready_is_told() -> None:
    live = [deployment("c", "queued", reason="waits for GPUs"), deployment("b"), deployment("a")]
    assert ready_one(live, None).id == "b"
    assert ready_one(live, "ORG/A").id == "a"
    with pytest.raises(NotReadyError, match=r"queued \(waits for GPUs\)"):
        ready_one(live, "bouchet-c")
    with pytest.raises(NotReadyError, match="running: bouchet-c, bouchet-b, bouchet-a"):
        ready_one(live, "other")
    with pytest.raises(NotReadyError, match="bouchet launch"):
        ready_one([], None)
    assert on_its_way(live, "c") == live[0]
    assert on_its_way([deployment("d", "draining")], None) is None
    stopping = deployment("e", stop_requested_at=NOW.isoformat())
    assert on_its_way([stopping], None) is None
    with pytest.raises(NotReadyError):
        ready_one([stopping], None)


def test_tiers_go_to_the_deployment_that_serves_them() -> None:
    big = deployment("big")
    small = deployment("small", request={"serve_as": ["haiku"]}, jobs=[{"window": 32768}])
    alone = claude_environment(big, 262144, "http://p", "k")
    assert alone["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "262144"
    assert alone["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "32000"
    both = claude_environment(big, 262144, "http://p", "k", [small, big])
    assert both["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "bouchet-small"
    assert both["ANTHROPIC_DEFAULT_OPUS_MODEL"] == both["ANTHROPIC_MODEL"] == "bouchet-big"
    assert both["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "32768"
    assert "/" not in both["ANTHROPIC_MODEL"]


def test_a_name_that_hides_the_window_is_warned_of() -> None:
    assert "--name" in (name_warning("claude-mine") or "")
    assert name_warning("bouchet-qwen3-32b") is None


@given(st.integers(256, 10_485_760))
def test_an_answer_leaves_room_for_the_conversation(window: int) -> None:
    answer = answer_tokens(deployment("a"), window)
    assert 0 < answer <= max(window // 4, 1)
    assert (window_warning(window, answer) is None) == (window >= 64_000)


def test_what_is_foreign_is_removed_and_ours_is_not() -> None:
    inherited = [
        "ANTHROPIC_MODEL",
        "ANTHROPIC_FOO",
        "VERTEX_REGION_CLAUDE",
        "CLAUDE_CODE_USE_X",
        "PATH",
        "CLAUDE_CONFIG_DIR",
    ]
    foreign = foreign_variables(inherited, {"ANTHROPIC_MODEL": "m"})
    assert {"ANTHROPIC_FOO", "VERTEX_REGION_CLAUDE", "CLAUDE_CODE_USE_X", "ANTHROPIC_API_KEY"} <= set(foreign)
    assert not {"ANTHROPIC_MODEL", "PATH", "CLAUDE_CONFIG_DIR"} & set(foreign)


def test_values_are_quoted_for_their_shell() -> None:
    assert shell_lines({"A": "it's"}, ["B"], "posix") == ["unset B", "export A='it'\"'\"'s'"]
    assert shell_lines({"A": "it's \\"}, ["B"], "fish") == ["set -e B;", "set -gx A 'it\\'s \\\\';"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0s"), (59, "59s"), (60, "1m"), (3600, "1h00m"), (90_000, "1d01h"), (7 * 86400, "7d00h")],
)
def test_durations(seconds: int, shown: str) -> None:
    assert duration(seconds) == shown


def test_sizes_and_starts() -> None:
    assert (tokens(262144), tokens(40960), tokens(500), tokens(None)) == ("256k", "40k", "500", "-")
    assert starts(NOW + timedelta(minutes=5), NOW) == "in 5m"
    assert starts(NOW - timedelta(minutes=5), NOW) == "soon"
    assert starts(None, NOW) == "-"


CELLS = st.text(st.characters(codec="utf-8"), max_size=120)


@given(st.lists(st.lists(CELLS, min_size=6, max_size=6), max_size=4), CELLS, st.integers(40, 200))
def test_no_table_is_wider_than_its_screen(rows: list[list[str]], note: str, width: int) -> None:
    lines = table(["A", "B", "C", "D", "E", "F"], rows, width, notes=[note] * len(rows))
    for line in lines:
        assert cells(line.plain) <= width
        assert clean(line.plain) == line.plain
        assert "\n" not in line.plain


@given(st.lists(CELLS, max_size=5), st.integers(1, 60))
def test_a_line_is_cut_to_its_width(texts: list[str], width: int) -> None:
    line = Line()
    for text in texts:
        line.append(clean(text).replace("\n", " ").replace("\t", " "), "bold")
    short = cut(line, width)
    assert cells(short.plain) <= width
    assert (short is line) == (cells(line.plain) <= width)


def test_server_sent_events() -> None:
    lines = [": ping", "", "id: 4", "event: problem", 'data: {"a": 1}', "", "id:5", 'data: "x"', ""]
    assert [(m.id, m.event, m.data) for m in parse_messages(iter(lines))] == [
        ("4", "problem", {"a": 1}),
        ("5", "", "x"),
    ]


def test_pieces_of_an_answer() -> None:
    good = 'data: {"choices": [{"delta": {"content": "a"}}, {"delta": {"role": "assistant"}}]}'
    thought = 'data: {"choices": [{"delta": {"reasoning_content": "hm"}}]}'
    told = list(pieces(iter([": ping", thought, good, 'data: {"choices": []}', "data: [DONE]"])))
    assert told == [Piece("hm", thought=True), Piece("a")]
    with pytest.raises(CommandError, match="no JSON"):
        list(pieces(iter(["data: {"])))
    with pytest.raises(CommandError, match="too long"):
        list(pieces(iter(['data: {"error": {"message": "prompt is too long"}}'])))


def test_texts_of_several_lines() -> None:
    assert not unfinished([])
    assert unfinished(["a \\"])
    assert not unfinished(["a \\", "b"])
    assert unfinished(['"""a', "b"])
    assert text_of(['"""a', 'b"""']) == "a\nb"
    assert text_of(["a\\", "b"]) == "a\nb"


def test_a_conversation_forgets_a_question_without_answer() -> None:
    talk = Conversation("m", "s")
    talk.said("q")
    talk.answered("")
    assert talk.turns == []
    talk.said("q")
    talk.answered("a")
    assert [m["role"] for m in talk.request()["messages"]] == ["system", "user", "assistant"]
    assert "**assistant**\n\na" in talk.markdown()
