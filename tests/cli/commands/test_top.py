"""`bouchet top`, `bouchet status --watch` and `bouchet open`."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from bouchet_core.deployments import Phase

from tests.cli.harness import ALIAS, TO_READY, Bouchet, advance, one_line_error, script


def stop() -> None:
    """Do what Ctrl-C does."""
    raise KeyboardInterrupt


def test_watch_without_a_terminal_prints_each_change_below_the_last(bouchet: Bouchet) -> None:
    identity = bouchet.launch()
    steps = {"requested": lambda: advance(bouchet.store, identity, *TO_READY), "ready": stop}
    done = bouchet.reacting(steps, "status", "--watch")
    assert done.status == 130
    before, _, after = done.out.partition("ready")
    assert ALIAS in before and "requested" in before and "\x1b" not in done.out
    assert "node12" in after


def test_watch_as_json_prints_one_status_a_line(bouchet: Bouchet) -> None:
    identity = bouchet.launch()
    steps = {'"requested"': lambda: advance(bouchet.store, identity, *TO_READY), '"ready"': stop}
    done = bouchet.reacting(steps, "status", "--watch", "--json")
    first = json.loads(done.out.splitlines()[0])
    assert first["deployments"][0]["id"] == identity and first["deployments"][0]["phase"] == "requested"


@pytest.mark.parametrize("more", [(ALIAS,), ("--all",), ("--repro",)])
def test_watch_is_of_all_live_deployments(bouchet: Bouchet, more: tuple[str, ...]) -> None:
    done = bouchet("status", "--watch", *more)
    assert done.status == 2 and "--watch shows all live deployments" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("command", [("status", "--watch"), ("top",)], ids=" ".join)
def test_screen_follows_a_deployment_and_q_leaves_the_terminal_as_it_was(
    bouchet: Bouchet, command: tuple[str, ...]
) -> None:
    identity = bouchet.launch()
    with bouchet.terminal(*command) as terminal:
        terminal.until(ALIAS)
        advance(bouchet.store, identity, *TO_READY)
        terminal.until("ready")
        terminal.type("q")
        status, rest = terminal.rest()
    assert status == 0
    assert rest.rstrip().endswith("\x1b[?1049l")


def test_top_once_shows_path_and_deployments(bouchet: Bouchet) -> None:
    bouchet.launch_ready()
    done = bouchet("top", "--once")
    assert done.status == 0, done.err
    assert "laptop" in done.out and "vLLM" in done.out and ALIAS in done.out


def test_top_as_json_has_the_parts_of_the_dashboard(bouchet: Bouchet) -> None:
    identity = bouchet.launch_ready()
    document = json.loads(bouchet("top", "--json").out)
    assert set(document) == {"status", "requests", "figures"}
    assert [one["id"] for one in document["status"]["deployments"]] == [identity]


def test_top_without_a_deployment_says_what_to_type(bouchet: Bouchet) -> None:
    assert "bouchet launch" in bouchet("top", "--once").out


@pytest.mark.parametrize("command", [("top", "--once"), ("status", "--watch"), ("open",)], ids=" ".join)
def test_stopped_stack_is_named(bouchet: Bouchet, command: tuple[str, ...]) -> None:
    done = bouchet(*command, BOUCHET_API_URL="http://127.0.0.1:1")
    assert one_line_error(done, 4) and "make up" in done.err


def test_open_without_a_browser_prints_a_link_for_one_use(bouchet: Bouchet) -> None:
    done = bouchet("open", DISPLAY="", WAYLAND_DISPLAY="", BROWSER="")
    assert done.status == 0
    assert done.out.startswith(bouchet.api.url) and done.out.count("\n") == 1
    assert "once, within 60 s" in done.err


@pytest.mark.slow
def test_open_gives_the_browser_a_file_and_no_link(bouchet: Bouchet, tmp_path: Path) -> None:
    """Every user of the machine can read the arguments of a process."""
    browser, seen = tmp_path / "browser", tmp_path / "seen"
    script(browser, f'echo "$@" > {seen}')
    done = bouchet.process("open", BROWSER=str(browser), DISPLAY=":0", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.status == 0, done.err
    page = tmp_path / "cache" / "bouchet" / "open.html"
    assert seen.read_text().strip() == page.as_uri()
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert bouchet.api.url in page.read_text() and bouchet.api.url not in done.out + done.err


def test_open_as_json_says_how_long_the_link_lives(bouchet: Bouchet) -> None:
    document = json.loads(bouchet("open", "--json").out)
    assert document["url"].startswith(bouchet.api.url) and document["expires_in_s"] == 60


def test_phase_of_the_first_screen_is_the_record_s(bouchet: Bouchet) -> None:
    identity = bouchet.launch()
    advance(bouchet.store, identity, Phase.SUBMITTING, Phase.QUEUED)
    assert "waits for GPUs" in bouchet("status").out
    assert "queued" in bouchet("top", "--once").out
