"""What runs on the person's own machine runs on macOS too: bash 3.2 and GNU make 3.81, which Apple ships."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# run on the host; all other shell scripts run in containers or on a cluster
HOST_SCRIPTS = ("bouchet", ".ci/run", "demo/base_image.sh")
# of bash 4 and later
NEW_BASH = {
    "associative arrays": r"\b(declare|local|typeset) -[a-zA-Z]*A",
    "name references": r"\b(declare|local|typeset) -[a-zA-Z]*n\b",
    "mapfile": r"\b(mapfile|readarray)\b",
    "case of values": r"\$\{[^}]*(\^\^?|,,?)\}",
    "quoted values": r"\$\{\w+@\w\}",
    "negative indexes": r"\$\{\w+\[-\d",
    "|& and &>>": r"\|&|&>>",
    "fallthrough": r";;&|;&",
    "coproc": r"\bcoproc\b",
    "globstar": r"globstar",
    "time formats": r"printf ['\"]%\(",
    "test -v": r"\[\[? -v ",
    "EPOCH variables": r"\bEPOCH(SECONDS|REALTIME)\b",
}
# of GNU tools, which macOS lacks or has another form of
GNU_ONLY = {
    "readlink -f": r"^[^#]*readlink -f",
    "sed -i without a suffix": r"\bsed -i ",
    "date -d": r"\bdate (-d|--date)",
    "stat -c": r"\bstat -c",
    "grep -P": r"\bgrep -[a-zA-Z]*P",
    "timeout": r"^\s*timeout ",
}
# of GNU make after 3.81
NEW_MAKE = {
    "::=": r"^[\w.]+ *::=",
    "!=": r"^[\w.]+ *!=",
    "file": r"\$\(file ",
    "oneshell": r"^\.ONESHELL",
    "undefine": r"^undefine ",
    "private": r": private ",
    "grouped targets": r"^\S+ &:",
    "let": r"\$\(let ",
}


def uses(text: str, patterns: dict[str, str]) -> list[str]:
    """Return which of the patterns occur in a script."""
    return [name for name, pattern in patterns.items() if re.search(pattern, text, re.MULTILINE)]


@pytest.mark.parametrize("script", HOST_SCRIPTS)
def test_host_scripts_run_under_bash_3_2(script: str) -> None:
    text = (ROOT / script).read_text()
    assert uses(text, NEW_BASH) == []
    assert uses(text, GNU_ONLY) == []


# such a program as the first word of a command; within a container it is that of Debian
PROGRAM = re.compile(r'(?<!--entrypoint", )(?<![\w"])\[\s*"(timeout|setsid|readlink|stat|flock|nproc|sha256sum)"')


def test_programs_of_the_host_start_none_that_macos_lacks() -> None:
    sources = [*ROOT.glob("setup/**/*.py"), *ROOT.glob("demo/**/*.py"), *ROOT.glob("cli/**/*.py")]
    assert {str(path): found for path in sources if (found := PROGRAM.findall(path.read_text()))} == {}
    assert PROGRAM.findall('run(["timeout", "300", "docker"])') == ["timeout"]


def test_makefile_runs_under_gnu_make_3_81() -> None:
    assert uses((ROOT / "Makefile").read_text(), NEW_MAKE) == []


def test_patterns_find_what_they_are_for() -> None:
    newer = 'declare -A x\nmapfile -t y\necho ${x^^} ${x@Q} ${y[-1]} |& cat\n[[ -v x ]]\nprintf "%(%F)T"\n'
    found = {"associative arrays", "mapfile", "case of values", "quoted values", "negative indexes", "|& and &>>"}
    assert found | {"test -v", "time formats"} <= set(uses(newer, NEW_BASH))
    assert uses("A ::= 1\nB != ls\n", NEW_MAKE) == ["::=", "!="]


def test_makefile_calls_the_python_that_is_chosen() -> None:
    argv = ["make", "--no-print-directory", "--dry-run", "up", "PYTHON=/opt/python3.13"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "/opt/python3.13 -m setup up"
