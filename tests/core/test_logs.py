"""What services log: one line a message, in which nothing steers a terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest

NASTY = "\x1b]0;owned\x07\x1b[31mred\rover\n2026-11-30 12:00:00,000 INFO bouchet_api forged \u202egnp.exe \x9b2J"


def logged(code: str) -> str:
    """Return what a process of its own logs that runs this code."""
    begin = "import logging\nfrom bouchet_core.settings import start_logging\nstart_logging('INFO')\n"
    found = subprocess.run([sys.executable, "-c", begin + code], check=True, capture_output=True, timeout=60)
    return found.stderr.decode()


def test_message_is_one_line_of_printable_text() -> None:
    text = logged(f"logging.getLogger('a').warning('model %s: é \\u6f22', {NASTY!r})")
    assert text.count("\n") == 1 and text[:-1].isprintable()
    assert "\\x1b]0;owned\\x07\\x1b[31mred\\rover\\n2026" in text and "\\u202e" in text and "é \u6f22" in text


@pytest.mark.parametrize("raised", ["ValueError", "KeyError"])
def test_traceback_keeps_its_lines_and_is_printable(raised: str) -> None:
    code = f"try:\n    raise {raised}({NASTY!r})\nexcept Exception:\n    logging.getLogger('a').exception('failed')"
    lines = logged(code).splitlines()
    assert lines[0].endswith("ERROR a failed") and lines[1] == "Traceback (most recent call last):"
    assert all(line.isprintable() for line in lines)


def test_service_logs_by_that_function_alone() -> None:
    """A service with a format of its own would print what clients and the cluster say as it comes."""
    from tests.worker.scenario import REPOSITORY

    mains = sorted(REPOSITORY.glob("services/*/*/__main__.py"))
    assert len(mains) == 5
    for main in mains:
        text = main.read_text()
        assert "start_logging(" in text and "basicConfig" not in text, main
        assert "uvicorn.run" not in text or "log_config=None" in text, main
