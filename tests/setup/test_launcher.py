"""./bouchet: from any folder, through a link, and without building anything when nothing changed."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parents[2] / "bouchet"
STUB = '#!/bin/bash\nprintf "%s\\n" "$@"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a project folder with an environment whose python prints its arguments."""
    root = tmp_path / "a folder"
    (root / "cli").mkdir(parents=True)
    (root / "cli" / "requirements.lock").write_text("httpx==1\n")
    binary = root / ".cache" / "cli" / "bin"
    binary.mkdir(parents=True)
    (binary / "python").write_text(STUB)
    (binary / "python").chmod(0o755)
    shutil.copy(root / "cli" / "requirements.lock", root / ".cache" / "cli" / "lock")
    shutil.copy(LAUNCHER, root / "bouchet")
    return root


def run(*argv: str | Path, cwd: Path) -> list[str]:
    done = subprocess.run(list(map(str, argv)), cwd=cwd, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def test_launcher_passes_arguments_unchanged(root: Path) -> None:
    assert run(root / "bouchet", "launch", "a b", "", cwd=Path("/")) == ["-P", "-m", "bouchet_cli", "launch", "a b", ""]


def test_launcher_works_through_links(root: Path, tmp_path: Path) -> None:
    assert run("./bouchet", "x", cwd=root)[-1] == "x"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bouchet").symlink_to("../a folder/bouchet")
    (tmp_path / "again").symlink_to(tmp_path / "bin" / "bouchet")
    assert run(tmp_path / "again", "x", cwd=Path("/"))[-1] == "x"


def test_launcher_changed_lock_renews_environment(root: Path) -> None:
    (root / "cli" / "requirements.lock").write_text("httpx==2\n")
    (root / "setup").mkdir()
    (root / "setup" / "__main__.py").write_text("import sys; print('made', sys.argv[1:], flush=True)\n")
    assert run(root / "bouchet", "x", cwd=Path("/"))[0] == "made ['cli']"


def test_launcher_starts_no_extra_process(root: Path) -> None:
    def timed() -> float:
        started = time.monotonic()
        run(root / "bouchet", cwd=root)
        return time.monotonic() - started

    assert min(timed() for _ in range(5)) < 0.5


def test_launcher_without_python_names_next_step(root: Path, tmp_path: Path) -> None:
    (root / ".cache" / "cli" / "lock").unlink()
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        ["/bin/bash", str(root / "bouchet")],
        env={"PATH": str(tmp_path / "empty")},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 1
    assert done.stderr == "error: Python 3.11 or newer is needed; install it, or set PYTHON to its path\n"
