"""`make pin VLLM=0.32.0`: resolves and hashes everything that an image of that vLLM holds (apptainer/pins/<pin>/).

A pin with a requirements.in beside its pin.yaml is made here. torch's builds for CPUs have an index of their own, which
pip's configuration names; uv does not read that, so it gets the index as an option.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from setup.command import run, try_run
from setup.errors import SetupError
from setup.progress import Progress

from .locks import uv_program

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
    return [uv, "pip", "compile", *flags, *target, *as_of, "-"]


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
