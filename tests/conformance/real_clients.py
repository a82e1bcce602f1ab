"""Real clients from npm against the stack: each runs a tool that writes a file, and goes on with its session."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.stack.harness import ROOT, Stack, say

LOCK = Path(__file__).parent / "clients"
CACHE = ROOT / ".cache" / "conformance-clients"
RUN_TIMEOUT_S = 300
TOKEN_VARIABLE = "BOUCHET_API_KEY"


@dataclass(frozen=True)
class Place:
    """Where a client runs: an empty home, a folder to work in, and the variables that it needs."""

    home: Path
    environ: Mapping[str, str]

    @property
    def work(self) -> Path:
        """The folder of the project."""
        folder = self.home / "work"
        folder.mkdir(exist_ok=True)
        return folder

    def run(self, *argv: str) -> str:
        """Run the client; return what it printed. Raises AssertionError when it failed."""
        base = {"HOME": str(self.home), "PATH": os.environ["PATH"], "TERM": "dumb"}
        done = subprocess.run(
            argv,
            cwd=self.work,
            env={**base, **self.environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
        )
        assert done.returncode == 0, f"{argv[0]}: {done.stdout[-1500:]} {done.stderr[-1500:]}"
        return done.stdout


def run_clients(stack: Stack, model: str) -> dict[str, str]:
    """Run all clients; return each with its problem, '' for none."""
    folder = installed()
    found = {}
    for name, run in CLIENTS.items():
        say(f"conformance: {name}")
        with tempfile.TemporaryDirectory() as home:
            place = Place(Path(home), {TOKEN_VARIABLE: stack.key})
            try:
                run(folder, place, stack, model)
                found[name] = ""
            except (AssertionError, subprocess.TimeoutExpired, OSError) as exc:
                found[name] = str(exc)[:2000]
    return found


def installed() -> Path:
    """Install the pinned clients with npm, once per lock; return the folder of their programs."""
    lock, done = LOCK / "package-lock.json", CACHE / ".made-from"
    if not done.is_file() or done.read_text() != lock.read_text():
        CACHE.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(LOCK / name, CACHE / name)
        argv = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(argv, cwd=CACHE, check=True, capture_output=True)
        done.write_text(lock.read_text())
    return CACHE / "node_modules" / ".bin"


def run_codex(folder: Path, place: Place, stack: Stack, model: str) -> None:
    """Run Codex as `bouchet env --for codex` sets it up: a tool loop, and the session resumed."""
    printed = stack.bouchet("env", "--for", "codex", "--model", model)
    assert printed.status == 0, printed.output
    (place.home / ".codex").mkdir()
    (place.home / ".codex" / "config.toml").write_text(printed.stdout)
    write_with_codex(folder, place)


def write_with_codex(folder: Path, place: Place) -> None:
    """Have Codex write a file with its shell tool, then resume the session."""
    target, codex = place.work / "hello.txt", str(folder / "codex")
    flags = ("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--json")
    order = {"cmd": f"printf zebra > {target}"}
    first = place.run(codex, "exec", *flags, f"CALL[exec_command {json.dumps(order)}]")
    assert target.is_file() and target.read_text() == "zebra", f"no file was written: {first[-1500:]}"
    second = place.run(codex, "exec", *flags, "resume", "--last", "SEEN[zebra]")
    assert "zebra: " in second and "zebra: 0" not in second, second[-1500:]


CLIENTS: dict[str, Callable[[Path, Place, Stack, str], None]] = {"Codex 0.171.0": run_codex}
