"""Progress: one line a step with its time; a live line on a terminal only."""

from __future__ import annotations

import io
import re
import threading
import time

import pytest

from setup.progress import Progress, Step, render_line, render_live


def test_step_prints_one_line_with_time() -> None:
    out = io.StringIO()
    with Progress(out) as progress, progress.step("images") as step:
        step.title = "images: 2 built"
    assert re.fullmatch(r"ok +images: 2 built +\d+\.\d s\n", out.getvalue())


def test_step_failure_is_marked_and_raised() -> None:
    out = io.StringIO()
    with pytest.raises(ValueError), Progress(out) as progress, progress.step("engine"):
        raise ValueError
    assert out.getvalue().startswith("failed  engine")


def test_progress_on_pipe_has_no_control_characters() -> None:
    out = io.StringIO()
    with Progress(out) as progress, progress.step("slow"):
        time.sleep(0.5)
    assert "\r" not in out.getvalue() and "\x1b" not in out.getvalue()


def test_progress_on_terminal_shows_live_line() -> None:
    out = io.StringIO()
    with Progress(out, live=True) as progress, progress.step("images") as step:
        step.say("step 3 of 7")
        deadline = time.monotonic() + 30
        while not re.search(r"images: step 3 of 7 \d+ s", out.getvalue()):
            assert time.monotonic() < deadline, out.getvalue()
            time.sleep(0.02)


def test_progress_lines_of_threads_do_not_mix() -> None:
    out = io.StringIO()

    def work(progress: Progress, number: int) -> None:
        with progress.step(f"step {number}"):
            time.sleep(0.01)

    with Progress(out) as progress:
        threads = [threading.Thread(target=work, args=(progress, number)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = out.getvalue().splitlines()
    assert sorted(int(re.fullmatch(r"ok +step (\d+) +\d+\.\d s", line)[1]) for line in lines) == list(range(20))  # type: ignore[index]


def test_render_line_and_live_line() -> None:
    assert render_line("ok", "images", 1.26) == "ok      " + "images".ljust(57) + "    1.3 s"
    one, two = Step("a", 0.0), Step("b", 5.0)
    two.say("half")
    assert render_live([one, two], "|", 10.0) == "| a 10 s  |  b: half 5 s"
