"""`make pin VLLM=0.32.0`: resolves and hashes everything that an image of that vLLM holds (apptainer/pins/<pin>/).

A pin with a requirements.in beside its pin.yaml is made here. torch's builds for CPUs have an index of their own, which
pip's configuration names; uv, which reads none of that, is told.
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
class Pin:
    """A pin's folder and the words of its pin.yaml."""

    folder: Path
    facts: dict[str, str]

    @property
    def platform(self) -> str:
        """As uv calls it: the oldest glibc that the image's wheels must do with is the image's own."""
        return f"{PLATFORMS[self.facts['platform']]}-manylinux_{self.facts['glibc'].replace('.', '_')}"


def read_pin(folder: Path) -> Pin:
    """pin.yaml holds flat `name: word` lines."""
    found = re.findall(r"^([a-z_]+): *(.*)$", (folder / "pin.yaml").read_text(encoding="utf-8"), re.M)
    return Pin(folder, {name: word.strip().strip("\"'") for name, word in found})


def pins_of(root: Path, vllm: str) -> list[Pin]:
    """The pins of that vLLM which are resolved here; SetupError names those that there are."""
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
    """The lock file of each pin of that vLLM."""
    pins = pins_of(root, vllm)
    uv = uv_program(root, progress)
    for pin in pins:
        with progress.step(f"{pin.folder.name}/requirements.lock"):
            wishes = (pin.folder / "requirements.in").read_text(encoding="utf-8")
            text = run(pin_argv(uv, pin), stdin=wishes, cwd=root)
            if "://" in text:
                raise SetupError(
                    f"the lock of {pin.folder.name} would hold an address; pin what asks for it to a release"
                )
            (pin.folder / "requirements.lock").write_text(head_of(pin) + text, encoding="utf-8")


def pin_argv(uv: str, pin: Pin) -> list[str]:
    """uv's command line: wheels only, for the image's Python and platform. Wishes come on standard input."""
    wishes = (pin.folder / "requirements.in").read_text(encoding="utf-8")
    flags = [*pip_sources(), *(word for name in left_out(wishes) for word in ("--no-emit-package", name))]
    flags += ["--quiet", "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--no-annotate"]
    flags += ["--no-header", "--upgrade"]
    target = ["--python-version", pin.facts["python"], "--python-platform", pin.platform, "--only-binary", ":all:"]
    as_of = ["--exclude-newer", pin.facts["as_of"]] if pin.facts.get("as_of") else []
    return [uv, "pip", "compile", *flags, *target, *as_of, "-"]


def left_out(wishes: str) -> list[str]:
    """What a requirements.in says is not to be installed: `# left out, for REASON: NAME...`."""
    return [name for names in re.findall(r"^# left out[^:]*: (.+)$", wishes, re.M) for name in names.split()]


def pip_sources() -> list[str]:
    """Further places that pip is configured to look at, as uv's options. Other words of pip's are none of uv's."""
    said = try_run([sys.executable, "-m", "pip", "config", "list"]) or ""
    found = re.findall(r"^(?:global|:env:)\.(extra-index-url|find-links)='(.+)'$", said, re.M)
    pairs = dict.fromkeys((option, place) for option, places in found for place in places.split())
    words = [word for option, place in pairs for word in (f"--{option}", place)]
    # as pip does; what is taken is hashed
    return [*words, "--index-strategy", "unsafe-best-match"] if "--extra-index-url" in words else words


def head_of(pin: Pin) -> str:
    """The lock's first lines."""
    facts = pin.facts
    whom = "CPUs" if facts["cuda"] == "null" else f"CUDA {facts['cuda']}"
    return (
        f"# vLLM {facts['vllm']} for {whom}, everything it needs, for CPython {facts['python']} on "
        f"{facts['platform']}.\n# Made by `make pin VLLM={facts['vllm']}`. Nothing is resolved when it is installed "
        "(--no-deps --require-hashes).\n"
    )


def note_commit(root: Path) -> None:
    """Writes down which commit the image recipe is, for the images made from it; not where that cannot be told."""
    commit = (try_run(["git", "-C", str(root), "log", "-1", "--format=%H", "--", "apptainer"]) or "").strip()
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        return
    changed = try_run(["git", "-C", str(root), "status", "--porcelain", "--", "apptainer"])
    text = f"{commit}{'-changed' if changed and changed.strip() else ''}\n"
    note = root / "apptainer" / "commit"
    if not note.is_file() or note.read_text(encoding="ascii") != text:
        note.write_text(text, encoding="ascii")
        note.chmod(0o644)
