"""What `bouchet launch --dry-run` shows: the whole of what a launch would submit, to be read and pasted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from bouchet_cli.client.records import Json

from .line import Line

HOME = re.compile(r"^(--[a-z-]+=)?~/")
NOTHING_DONE = "nothing was submitted; where `preview` stands in names and paths, a launch has its id"


def preview_lines(preview: Json) -> Iterator[Line | str]:
    """The answer of POST /v1/deployments/preview."""
    yield from _placement_lines(preview["placement"])
    yield f"image {preview['image']}, window {preview['window']} tokens"
    yield from memory_lines(preview["memory"])
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


def memory_lines(memory: Json) -> Iterator[str]:
    """The sum of a GPU's memory, as far as it is known."""
    rows = [
        ("one GPU", memory["gpu_gib"], f"x {memory['share']:g} for vLLM" if memory["share"] else ""),
        ("weights", memory["weights_gib"], f"by {memory['source']}" if memory["source"] else ""),
        ("own work", memory["work_gib"], "estimated: activations, graphs, NCCL"),
        ("KV cache", memory["cache_gib"], "what is left" if memory["share"] else "as it is set"),
        ("a window", memory["window_gib"], _a_token(memory)),
    ]
    for label, size, note in rows:
        if size is not None:
            yield f"memory: {label:9}{size:>8.2f} GiB  {note}".rstrip()
    longest = f"; its config.json allows {memory['longest']} tokens" if memory["longest"] else ""
    yield f"memory: {memory['note']}{longest}"


def _a_token(memory: Json) -> str:
    each = f", {memory['token_bytes'] / 1024:.1f} KiB a token" if memory["token_bytes"] else ""
    return f"of {memory['window']} tokens{each}"


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
