"""`bouchet chat`, on a terminal and with a question on stdin."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

from tests.cli.harness import ALIAS, KEY, NOTHING_LISTENS, Bouchet, one_line_error


def test_question_on_stdin_is_answered(bouchet: Bouchet) -> None:
    bouchet.launch_ready()
    done = bouchet("--chat", "--system", "Be short.", stdin="Hi\nyou")
    assert (done.status, done.out) == (0, "Hello there[2J!\n")
    assert bouchet.proxy.requests[0] == {
        "model": ALIAS,
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi\nyou"}],
        "stream": True,
    }
    assert bouchet.proxy.keys == [f"Bearer {KEY}"]


def test_thinking_is_only_in_the_json_answer(bouchet: Bouchet) -> None:
    bouchet.launch_ready()
    bouchet.proxy.thoughts = ["Hm"]
    document = json.loads(bouchet("chat", "--json", stdin="Hi").out)
    assert document == {"model": ALIAS, "answer": "Hello there\x1b[2J!", "thoughts": "Hm"}
    assert bouchet("chat", stdin="Hi").out == "Hello there[2J!\n"


def test_chat_errors_have_a_status(bouchet: Bouchet) -> None:
    assert one_line_error(bouchet("chat", stdin="Hi"), 3)
    bouchet.launch_ready()
    assert one_line_error(bouchet("chat", stdin=" "), 2)
    assert one_line_error(bouchet("chat", stdin="Hi", BOUCHET_PROXY_URL=NOTHING_LISTENS), 4)
    bouchet.proxy.status = 529
    busy = bouchet("chat", stdin="Hi")
    assert (busy.status, busy.out, busy.err) == (3, "", "error: it is queued: try again\n")


def test_ctrl_c_stops_the_answer_and_not_the_chat(bouchet: Bouchet) -> None:
    bouchet.launch_ready()
    bouchet.proxy.answer, bouchet.proxy.pause_s = ["more "] * 50, 0.2
    with bouchet.terminal("chat") as tty:
        tty.until(">>> ")
        tty.type("Talk\n")
        tty.until("more more")
        tty.type("\x03")
        tty.until("[stopped]")
        tty.until(">>> ")
        bouchet.proxy.answer, bouchet.proxy.pause_s = ["done"], 0.0
        tty.type("Go on\n")
        tty.until("done")
        tty.until(">>> ")
        tty.type("/exit\n")
        status, _ = tty.rest()
    assert status == 0
    assert [message["role"] for message in bouchet.proxy.requests[1]["messages"]] == ["user", "assistant", "user"]


def test_chat_commands_and_history(bouchet: Bouchet, tmp_path: Path) -> None:
    bouchet.launch_ready()
    bouchet.proxy.thoughts, bouchet.proxy.answer = ["Let me", " think."], ["An", " answer."]
    saved = tmp_path / "talk.md"
    with bouchet.terminal("chat", "--system", "Be short.") as tty:
        tty.until(">>> ")
        for typed, *expected in (
            ("one \\\ntwo", "Let me think.", "An answer.", ">>> "),
            ('"""\nthree\n\nfour"""', "An answer.", ">>> "),
            ("/nosuch", "error: ", ">>> "),
            ("/model", f"{ALIAS}  ready", ">>> "),
            (f"/save {saved}", str(saved), ">>> "),
            ("/clear", ">>> "),
            ("/system", "Be short.", "/system none", ">>> "),
            ("/system none", "removed", ">>> "),
            ("five", "An answer.", ">>> "),
        ):
            tty.type(f"{typed}\n")
            for text in expected:
                tty.until(text)
        tty.type("half a ")
        tty.until("half a ")
        time.sleep(0.1)  # Python notices a Ctrl-C that arrives before it reads again only with the next key
        tty.type("\x03")
        tty.until(">>> ")
        tty.type("\x04")
        status, _ = tty.rest()
    assert status == 0
    first, second, last = (request["messages"] for request in bouchet.proxy.requests)
    assert first == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "one \ntwo"}]
    assert [message["content"] for message in second[2:]] == ["An answer.", "three\n\nfour"]
    assert last == [{"role": "user", "content": "five"}]
    assert "**assistant**\n\nAn answer." in saved.read_text()
    history = tmp_path / ".local" / "state" / "bouchet" / "chat-history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "/system none" in history.read_text().splitlines()


def test_chat_continues_after_an_error(bouchet: Bouchet) -> None:
    bouchet.launch_ready()
    with bouchet.terminal("chat") as tty:
        tty.until(">>> ")
        bouchet.proxy.status = 529
        tty.type("Hi\n")
        tty.until("error: it is queued: try again")
        tty.until(">>> ")
        bouchet.proxy.status = 200
        tty.type("Hi\n")
        tty.until("Hello there")
        tty.until(">>> ")
        tty.type("/quit\n")
        status, _ = tty.rest()
    assert status == 0
    assert [len(request["messages"]) for request in bouchet.proxy.requests] == [1, 1]
