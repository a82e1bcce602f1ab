"""The command on a terminal (a pty): prompts, progress and Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bouchet_core.models import Phase

from tests.cli.conftest import Bouchet, advance
from tests.cli.test_commands import QWEN, TO_READY, launched
from tests.fakes.gateway_door import GatewayDoor

WAIT_S = 30.0
# the terminal must be the session's own, so that Ctrl-C reaches the program as a signal
IN_ITS_OWN_SESSION = """
import os, sys
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
    whole = {**environment, "TERM": "xterm", "COLUMNS": "120"}
    begun = [sys.executable, "-c", IN_ITS_OWN_SESSION, *program]
    with subprocess.Popen(begun, stdin=slave, stdout=slave, stderr=slave, env=whole) as process:
        os.close(slave)
        try:
            yield Terminal(process, master)
        finally:
            process.kill()
            os.close(master)


def test_the_tunnels_questions_are_asked_without_echo(bouchet: Bouchet, gateway: GatewayDoor) -> None:
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


def test_a_launch_asks_what_the_login_asks_and_goes_on_after_ctrl_c(bouchet: Bouchet, gateway: GatewayDoor) -> None:
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
