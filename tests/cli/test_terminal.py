"""The command on a terminal (a pty): prompts, progress and Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import select
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from bouchet_core.deployments import Phase

from tests.cli.conftest import Bouchet, advance
from tests.cli.test_commands import QWEN, TO_READY, launched
from tests.fakes.gateway_api import FakeGateway

WAIT_S = 60.0
# the terminal must be the session's own, so that Ctrl-C reaches the program as a signal
# Whoever runs the tests in the background has SIGINT ignored, which programs inherit and terminals do not do.
IN_ITS_OWN_SESSION = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.setsid()
os.close(os.open(os.ttyname(0), os.O_RDWR))
os.execv(sys.argv[1], sys.argv[1:])
"""


@dataclass
class Terminal:
    """A program whose stdin, stdout and stderr are one terminal."""

    process: subprocess.Popen[bytes]
    master: int
    seen: str = ""

    def until(self, words: str) -> None:
        """Reads until these words have come after the last ones."""
        deadline = time.monotonic() + WAIT_S
        while words not in self.seen:
            assert time.monotonic() < deadline, f"{words!r} did not come: {self.seen!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(self.master, 65536).decode())
        self.seen = self.seen.partition(words)[2]

    def type(self, text: str) -> None:
        """Keys, control characters included."""
        os.write(self.master, text.encode())

    def rest(self) -> tuple[int, str]:
        """The exit status, and what came since the last words waited for."""
        status = self.process.wait(WAIT_S)
        while select.select([self.master], [], [], 0.2)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # Linux's way to say that nobody holds the other end
                break
            self.seen += data.decode()
        return status, self.seen


@contextmanager
def terminal(program: Sequence[str], environment: Mapping[str, str]) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    whole = {"TERM": "xterm", "COLUMNS": "120", **environment}
    begun = [sys.executable, "-c", IN_ITS_OWN_SESSION, *program]
    with subprocess.Popen(begun, stdin=slave, stdout=slave, stderr=slave, env=whole) as process:
        os.close(slave)
        try:
            yield Terminal(process, master)
        finally:
            process.kill()
            os.close(master)


def test_the_tunnels_questions_are_asked_without_echo(bouchet: Bouchet, gateway: FakeGateway) -> None:
    gateway.ask("p1", "Passcode: ")
    with terminal(bouchet.program("tunnel"), bouchet.environment) as tty:
        tty.until("Passcode: ")
        time.sleep(0.3)
        tty.type("987654\n")
        tty.until("tunnel to login: up")
        status, rest = tty.rest()
    assert status == 0
    assert gateway.answers == [["987654"]]
    assert "987654" not in rest


def test_a_launch_asks_what_the_login_asks_and_goes_on_after_ctrl_c(bouchet: Bouchet, gateway: FakeGateway) -> None:
    gateway.ask("p1", "Option (1-2): ", echo=True)
    with terminal(bouchet.program("launch", QWEN), bouchet.environment) as tty:
        tty.until("requested (id ")
        tty.until("Option (1-2): ")
        time.sleep(0.3)
        tty.type("1\n")
        [live] = bouchet.store.live()
        advance(bouchet.store, live.id, Phase.SUBMITTING, Phase.QUEUED)
        tty.until("waits for GPUs")
        tty.type("\x03")
        tty.until(f"bouchet cancel {live.id}")
        status, _ = tty.rest()
    assert status == 130
    assert gateway.answers == [["1"]]
    assert bouchet.store.get(live.id).stop_requested_at is None


def test_bare_bouchet_offers_a_launch_where_nothing_runs(bouchet: Bouchet) -> None:
    with terminal(bouchet.program(), bouchet.environment) as tty:
        tty.until("Launch Qwen/Qwen3-Coder-Next-FP8 now? [y/N]")
        tty.type("n\n")
        status, _ = tty.rest()
    assert (status, bouchet.store.live()) == (3, [])


def test_ctrl_c_stops_the_answer_and_not_the_chat(bouchet: Bouchet) -> None:
    advance(bouchet.store, launched(bouchet), *TO_READY)
    bouchet.proxy.words, bouchet.proxy.pause_s = ["word "] * 50, 0.2
    with terminal(bouchet.program("chat"), bouchet.environment) as tty:
        tty.until(">>> ")
        tty.type("Talk\n")
        tty.until("word word")
        tty.type("\x03")
        tty.until("[stopped]")
        tty.until(">>> ")
        bouchet.proxy.words, bouchet.proxy.pause_s = ["done"], 0.0
        tty.type("Go on\n")
        tty.until("done")
        tty.until(">>> ")
        tty.type("/exit\n")
        status, _ = tty.rest()
    assert status == 0
    roles = [message["role"] for message in bouchet.proxy.requests[1]["messages"]]
    assert roles == ["user", "assistant", "user"]


def test_a_whole_chat(bouchet: Bouchet, tmp_path: Path) -> None:
    advance(bouchet.store, launched(bouchet), *TO_READY)
    bouchet.proxy.thoughts, bouchet.proxy.words = ["Let me", " think."], ["An", " answer."]
    saved = tmp_path / "talk.md"
    with terminal(bouchet.program("chat", "--system", "Be short."), bouchet.environment) as tty:
        tty.until(">>> ")
        for typed, *answered in (
            ("one \\\ntwo", "Let me think.", "An answer.", ">>> "),
            ('"""\nthree\n\nfour"""', "An answer.", ">>> "),
            ("/nosuch", "error: no command /nosuch; /help lists them"),
            ("/model", "bouchet-qwen3-32b  ready", ">>> "),
            (f"/save {saved}", f"saved to {saved}"),
            ("/clear", "forgotten"),
            ("/system", "no system prompt"),
            ("five", "An answer.", ">>> "),
        ):
            tty.type(f"{typed}\n")
            for words in answered:
                tty.until(words)
        tty.type("half a ")
        tty.until("half a ")
        time.sleep(0.1)  # nobody types as fast: Python sees a Ctrl-C that comes before it listens with the next key
        tty.type("\x03")  # Ctrl-C forgets what is being typed
        tty.until(">>> ")
        tty.type("\x04")
        status, _ = tty.rest()
    assert status == 0
    first, second, last = (request["messages"] for request in bouchet.proxy.requests)
    assert first == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "one \ntwo"}]
    assert [m["content"] for m in second[2:]] == ["An answer.", "three\n\nfour"]
    assert last == [{"role": "user", "content": "five"}]
    assert "**assistant**\n\nAn answer." in saved.read_text()
    history = tmp_path / ".local" / "state" / "bouchet" / "chat-history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "/system" in history.read_text().splitlines()


def test_an_error_in_a_chat_is_a_line_and_no_end(bouchet: Bouchet) -> None:
    advance(bouchet.store, launched(bouchet), *TO_READY)
    with terminal(bouchet.program("chat"), bouchet.environment) as tty:
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


@pytest.mark.parametrize(("set_to", "styled"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_are_for_terminals_that_want_them(bouchet: Bouchet, set_to: dict[str, str], styled: bool) -> None:
    advance(bouchet.store, launched(bouchet), *TO_READY)
    inherited = {name: value for name, value in bouchet.environment.items() if name != "TERM"}
    with terminal(bouchet.program("status"), {**inherited, **set_to}) as tty:
        status, shown = tty.rest()
    assert status == 0
    assert "bouchet-qwen3-32b" in shown
    assert ("\x1b[" in shown) == styled


def test_a_launch_on_a_dumb_terminal_is_told_line_by_line(bouchet: Bouchet) -> None:
    inherited = {name: value for name, value in bouchet.environment.items() if name != "TERM"}
    with terminal(bouchet.program("launch", QWEN), {**inherited, "TERM": "dumb", "COLUMNS": "40"}) as tty:
        tty.until("requested (id ")
        [live] = bouchet.store.live()
        advance(bouchet.store, live.id, Phase.SUBMITTING, Phase.QUEUED)
        tty.until("queued")
        advance(bouchet.store, live.id, Phase.STARTING, Phase.READY)
        tty.until("is ready")
        status, rest = tty.rest()
    assert status == 0
    assert "\x1b" not in rest


def test_progress_stays_on_one_line_of_a_narrow_terminal(bouchet: Bouchet) -> None:
    narrow = {**bouchet.environment, "COLUMNS": "40"}
    with terminal(bouchet.program("launch", QWEN, "--name", "a-name-that-fills-half-of-it"), narrow) as tty:
        tty.until("requested (id ")
        [live] = bouchet.store.live()
        advance(bouchet.store, live.id, Phase.SUBMITTING, Phase.QUEUED)
        tty.until("a-name-that-fills-half-of-it queued")
        tty.until("…")
        tty.until("a-name-that-fills-half-of-it queued")
        drawn = tty.seen
        advance(bouchet.store, live.id, Phase.STARTING, Phase.READY)
        tty.until("is ready")
        status, _ = tty.rest()
    assert status == 0
    assert "\n" not in drawn.partition("…")[0]
