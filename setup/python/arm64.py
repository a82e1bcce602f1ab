"""`make arm64`: whether every lock, but those of images for x86-64, installs on Linux for arm64, as on a Mac.

uv resolves each lock for that platform with all hashes, and installs nothing. It needs the package index.
"""

from __future__ import annotations

from pathlib import Path

from setup.command import run
from setup.errors import CommandFailedError, SetupError
from setup.progress import Progress

from .locks import pip_sources, read_pin, uv_program

PLATFORM = "aarch64-manylinux_2_28"
# of the services' images
PYTHON = "3.13"
# Compose's own build needs a Python of its own, and is for machines without Docker's plugin
EXCEPT = ("apptainer", "compose.lock", "compose-build.lock")


def arm64_locks(root: Path) -> list[Path]:
    """Return the locks that are installed in containers or on a person's machine."""
    found = [
        *root.glob("*/requirements.lock"),
        *root.glob("demo/*/requirements.lock"),
        *root.glob("services/*/requirements.lock"),
        *root.glob("setup/locks/*.lock"),
    ]
    kept = [path for path in found if not {path.name, path.relative_to(root).parts[0]} & set(EXCEPT)]
    pins = [path.parent / "requirements.lock" for path in root.glob("apptainer/pins/*/pin.yaml") if is_arm64(path)]
    return sorted(path for path in (*kept, *pins) if "==" in path.read_text(encoding="utf-8"))


def is_arm64(pin: Path) -> bool:
    """Return whether a pin is for arm64."""
    return read_pin(pin.parent).facts["platform"] == "linux/arm64"


def arm64_argv(uv: str, lock: Path) -> list[str]:
    """Return uv's command line for one lock; that of a pin for the image's own Python and C library."""
    if (lock.parent / "pin.yaml").is_file():
        pin = read_pin(lock.parent)
        platform, python = pin.platform, pin.facts["python"]
    else:
        platform, python = PLATFORM, PYTHON
    argv = [uv, "pip", "install", "--dry-run", "--quiet", "--require-hashes", "--only-binary", ":all:", "--no-deps"]
    argv += ["--python-platform", platform, "--python-version", python, "--target", "/nonexistent/arm64"]
    return [*argv, *pip_sources(), "--requirement", str(lock)]


def check_arm64(root: Path, progress: Progress) -> None:
    """Check all locks; SetupError names those that lack a wheel."""
    uv = uv_program(root, progress)
    missing: list[str] = []
    for lock in arm64_locks(root):
        name = str(lock.relative_to(root))
        with progress.step(name) as step:
            try:
                run(arm64_argv(uv, lock))
            except CommandFailedError as exc:
                missing.append(name)
                step.title = f"{name}: {exc.output.strip().splitlines()[-1][:200] if exc.output.strip() else 'failed'}"
    if missing:
        raise SetupError(f"no complete set of wheels for {PLATFORM}: {', '.join(missing)}")
    progress.note(f"every lock installs on {PLATFORM}")
