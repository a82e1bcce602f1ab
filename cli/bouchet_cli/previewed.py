"""What `bouchet launch --dry-run` shows: the whole of what a launch would submit, to be read and pasted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from .line import Line
from .records import Json

HOME = re.compile(r"^(--[a-z-]+=)?~/")
NOTHING_DONE = "nothing was submitted; where `preview` stands in names and paths, a launch has its id"


def preview_lines(preview: Json) -> Iterator[Line | str]:
    """The answer of POST /v1/deployments/preview."""
    yield from _placement_lines(preview["placement"])
    yield f"image {preview['image']}, window {preview['window']} tokens"
    yield NOTHING_DONE
    yield from _part("command")
    yield shell_line(preview["command"])
    for name, text in preview["files"].items():
        yield from _part(f"{preview['folder']}/{name}")
        yield text.rstrip("\n") or "(empty)"
    yield from _part(preview["command"][-3])
    yield preview["script"].rstrip("\n")


def _placement_lines(placement: Json) -> Iterator[str]:
    nodes = f"{placement['nodes']} nodes with " if placement["nodes"] > 1 else ""
    gpus = f"{placement['gpus']} x {placement['gpu_type']}" if placement["gpus"] else "no GPU"
    share = f"{placement['cpus']} CPUs and {placement['memory_gib']} GiB a node"
    yield f"{placement['partition']}: {nodes}{gpus}, {share}, {_hours(placement['walltime_s'])}"
    if placement["why"]:
        yield f"why: {placement['why']}"


def _hours(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"


def _part(title: str) -> Iterator[Line | str]:
    yield ""
    yield Line(f"# {title}", "bold")


def shell_line(words: list[str]) -> str:
    """A command as a shell takes it; `~/` keeps its meaning."""
    return " \\\n    ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    home = HOME.match(word)
    if not home:
        return shlex.quote(word)
    return f'{home.group(1) or ""}"$HOME"/{shlex.quote(word[home.end() :])}'
