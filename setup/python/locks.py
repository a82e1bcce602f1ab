"""Hashed lock files: `make renew` renews those of our packages, `make pin VLLM=0.32.0` those of the images.

A pin with a requirements.in beside its pin.yaml is resolved here. torch's CPU builds have an index of their own, which
pip's configuration names; uv does not read that, so it gets the index as an option. overrides.in beside them has what
is taken in place of the version that a package asks for.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from setup.command import run, try_run
from setup.errors import SetupError
from setup.progress import Progress

from .environments import ensure_environment
from .lock_changes import Change, find_changes, render_changes

CONTAINER_PYTHON = "3.13"
OLDEST_PYTHON = "3.11"
OURS = re.compile(r"bouchet[-_]")
HEAVY = re.compile(r"litellm\b")  # 120 packages, and it wants another rq than the worker


@dataclass(frozen=True)
class Lock:
    """One lock file: its Python, and the pyproject.toml and .in files whose requirements it answers."""

    output: str
    python: str
    sources: tuple[str, ...]
    without_heavy: bool = False


CLIENTS = ("aider", "google-genai", "langchain", "pydantic-ai", "tool-eval-bench")
SERVICES = ("gateway", "worker", "api", "proxy", "notifier")
PACKAGE_FOLDERS = ("core", *(f"services/{service}" for service in SERVICES), "cli")
LOCKS = (
    *(
        Lock(f"setup/locks/{name}.lock", OLDEST_PYTHON, (f"setup/locks/{name}.in",))
        for name in ("uv", "compose-build", "compose", "schemathesis", "audit")
    ),
    *(
        Lock(
            f"services/{service}/requirements.lock",
            CONTAINER_PYTHON,
            ("core/pyproject.toml", f"services/{service}/pyproject.toml"),
        )
        for service in SERVICES
    ),
    *(Lock(f"tests/clients/locks/{name}.lock", OLDEST_PYTHON, (f"tests/clients/locks/{name}.in",)) for name in CLIENTS),
    Lock("cli/requirements.lock", OLDEST_PYTHON, ("cli/pyproject.toml",)),
    Lock(
        "tests/requirements.lock",
        OLDEST_PYTHON,
        (*(f"{folder}/pyproject.toml" for folder in PACKAGE_FOLDERS), "tests/requirements.in"),
        without_heavy=True,
    ),
)


def renew_all(root: Path, progress: Progress, uv: str = "") -> None:
    """Renew all lock files to the newest versions that the sources allow, and print what changed."""
    uv = uv or uv_program(root, progress)
    changed: dict[str, list[Change]] = {}
    try:
        for lock in LOCKS:
            path = root / lock.output
            before = path.read_text(encoding="utf-8") if path.is_file() else ""
            with progress.step(lock.output):
                renew(root, uv, lock)
            changed[lock.output] = find_changes(before, path.read_text(encoding="utf-8"))
    finally:  # also what was renewed before one failed
        progress.close()
        print(render_changes(changed))


def uv_program(root: Path, progress: Progress) -> str:
    """Return the path of uv, in its own environment."""
    python = ensure_environment(progress, root / ".cache" / "tools" / "uv", [root / "setup" / "locks" / "uv.lock"])
    return str(python.parent / "uv")


def renew(root: Path, uv: str, lock: Lock) -> None:
    """Renew one lock file."""
    text = run(compile_argv(uv, lock), stdin="\n".join(requirements(root, lock)) + "\n", cwd=root)
    if "://" in text:
        raise SetupError(f"{lock.output} would hold an address; pin what asks for it to a release")
    (root / lock.output).write_text(text, encoding="utf-8")


def compile_argv(uv: str, lock: Lock) -> list[str]:
    """Return uv's command line. Requirements come on standard input, so that no path gets into the lock."""
    flags = ["--quiet", "--universal", "--generate-hashes", "--no-emit-index-url", "--no-annotate", "--no-header"]
    return [uv, "pip", "compile", *flags, "--upgrade", "--python-version", lock.python, "-"]


def requirements(root: Path, lock: Lock) -> list[str]:
    """Collect the requirements of all sources, without our own packages, which are on no registry."""
    found = [line for source in lock.sources for line in read_requirements(root / source)]
    if any(re.match(r"bouchet[-_]core\b", line) for line in found) and "core/pyproject.toml" not in lock.sources:
        found += read_requirements(root / "core" / "pyproject.toml")
    return sorted({line for line in found if not OURS.match(line) and not (lock.without_heavy and HEAVY.match(line))})


def read_requirements(path: Path) -> Iterable[str]:
    """Read the dependencies of a pyproject.toml, or the lines of an .in file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return list(map(str, tomllib.loads(text)["project"].get("dependencies", [])))
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


PLATFORMS = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}


@dataclass(frozen=True)
class PinFolder:
    """A pin's folder and the words of its pin.yaml."""

    folder: Path
    facts: dict[str, str]

    @property
    def platform(self) -> str:
        """As uv calls it: the oldest glibc that the image's wheels must do with is the image's own."""
        return f"{PLATFORMS[self.facts['platform']]}-manylinux_{self.facts['glibc'].replace('.', '_')}"


def read_pin(folder: Path) -> PinFolder:
    """Read pin.yaml, which has flat `name: value` lines."""
    found = re.findall(r"^([a-z_]+): *(.*)$", (folder / "pin.yaml").read_text(encoding="utf-8"), re.M)
    return PinFolder(folder, {name: word.strip().strip("\"'") for name, word in found})


def pins_of(root: Path, vllm: str) -> list[PinFolder]:
    """Return the pins of a vLLM version that are resolved here; SetupError lists the known versions."""
    pins = [read_pin(path.parent) for path in sorted(root.glob("apptainer/pins/*/requirements.in"))]
    found = [pin for pin in pins if pin.facts["vllm"] == vllm]
    if not found:
        known = ", ".join(sorted({pin.facts["vllm"] for pin in pins}))
        raise SetupError(
            f"no pin is of vLLM {vllm or '(none named)'}: there are {known}, as in `make pin VLLM=0.32.0`; for another "
            "one make apptainer/pins/<name>/ with a pin.yaml and a requirements.in"
        )
    return found


def renew_pins(root: Path, vllm: str, progress: Progress) -> None:
    """Renew the lock file of each pin of a vLLM version."""
    pins = pins_of(root, vllm)
    uv = uv_program(root, progress)
    for pin in pins:
        with progress.step(f"{pin.folder.name}/requirements.lock"):
            requirements = (pin.folder / "requirements.in").read_text(encoding="utf-8")
            text = run(pin_argv(uv, pin), stdin=requirements, cwd=root)
            if "://" in text:
                raise SetupError(
                    f"the lock of {pin.folder.name} would hold an address; pin what asks for it to a release"
                )
            (pin.folder / "requirements.lock").write_text(head_of(pin) + text, encoding="utf-8")


def pin_argv(uv: str, pin: PinFolder) -> list[str]:
    """Return uv's argv: wheels only, for the image's Python and platform. Requirements come on standard input."""
    requirements = (pin.folder / "requirements.in").read_text(encoding="utf-8")
    flags = [*pip_sources(), *(word for name in left_out(requirements) for word in ("--no-emit-package", name))]
    flags += ["--quiet", "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--no-annotate"]
    flags += ["--no-header", "--upgrade"]
    target = ["--python-version", pin.facts["python"], "--python-platform", pin.platform, "--only-binary", ":all:"]
    as_of = ["--exclude-newer", pin.facts["as_of"]] if pin.facts.get("as_of") else []
    overrides = pin.folder / "overrides.in"
    instead = ["--override", str(overrides)] if overrides.is_file() else []
    return [uv, "pip", "compile", *flags, *target, *as_of, *instead, "-"]


def left_out(requirements: str) -> list[str]:
    """Parse what a requirements.in excludes: `# left out, for REASON: NAME...`."""
    return [name for names in re.findall(r"^# left out[^:]*: (.+)$", requirements, re.M) for name in names.split()]


def pip_sources() -> list[str]:
    """Return further package sources of pip's configuration as uv's options."""
    config = try_run([sys.executable, "-m", "pip", "config", "list"]) or ""
    found = re.findall(r"^(?:global|:env:)\.(extra-index-url|find-links)='(.+)'$", config, re.M)
    pairs = dict.fromkeys((option, place) for option, places in found for place in places.split())
    words = [word for option, place in pairs for word in (f"--{option}", place)]
    # as pip does; what is taken is hashed
    return [*words, "--index-strategy", "unsafe-best-match"] if "--extra-index-url" in words else words


def head_of(pin: PinFolder) -> str:
    """Render the lock's first lines."""
    facts = pin.facts
    whom = "CPUs" if facts["cuda"] == "null" else f"CUDA {facts['cuda']}"
    return (
        f"# vLLM {facts['vllm']} for {whom}, everything it needs, for CPython {facts['python']} on "
        f"{facts['platform']}.\n# Made by `make pin VLLM={facts['vllm']}`. Nothing is resolved when it is installed "
        "(--no-deps --require-hashes).\n"
    )


def note_commit(root: Path) -> None:
    """Write the commit of the image recipe to a file for the images made from it, if git knows it."""
    commit = (try_run(["git", "-C", str(root), "log", "-1", "--format=%H", "--", "apptainer"]) or "").strip()
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        return
    changed = try_run(["git", "-C", str(root), "status", "--porcelain", "--", "apptainer"])
    text = f"{commit}{'-changed' if changed and changed.strip() else ''}\n"
    note = root / "apptainer" / "commit"
    if not note.is_file() or note.read_text(encoding="ascii") != text:
        note.write_text(text, encoding="ascii")
        note.chmod(0o644)
