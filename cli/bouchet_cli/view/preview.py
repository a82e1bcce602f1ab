"""Output of `bouchet launch --dry-run`: everything that a launch would submit, ready to read and paste. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from bouchet_cli.client.http import Json

from .screen import StyledLine

HOME = re.compile(r"^(--[a-z-]+=)?~/")
NOT_SUBMITTED = "nothing was submitted; a real launch has its id in place of `preview` in names and paths"


def preview_lines(preview: Json) -> Iterator[StyledLine | str]:
    """Yield the lines for the answer of POST /v1/deployments/preview: the files, and what matters most at the end."""
    for name, text in preview["files"].items():
        yield from section(f"{preview['folder']}/{name}")
        yield text.rstrip("\n") or "(empty)"
    yield from section(preview["command"][-3])
    yield preview["script"].rstrip("\n")
    yield from section("command")
    yield shell_command(preview["command"])
    yield from section("summary")
    yield from _placement_lines(preview["placement"])
    yield f"image {preview['image']}, window {preview['window']} tokens"
    minutes = preview.get("idle_timeout_min")
    yield f"ends after {minutes} minutes without requests" if minutes else "does not end when it is idle"
    if preview.get("serve_as"):
        yield f"serves Claude's {', '.join(preview['serve_as'])}"
    if preview.get("cost"):
        yield f"cost: {preview['cost']}"
    yield from memory_lines(preview["memory"])
    yield NOT_SUBMITTED


def memory_lines(memory: Json) -> Iterator[str]:
    """Yield the estimate of one GPU's memory, as far as it is known."""
    share = memory["share"]
    rows = [
        ("GPU", memory["gpu_gib"], f"x {share:g} for vLLM" if share else ""),
        ("weights", memory["weights_gib"], f"from {memory['source']}" if memory["source"] else ""),
        ("overhead", memory["work_gib"], "estimate: activations, CUDA graphs, NCCL"),
        ("KV cache", memory["cache_gib"], "the rest" if share else "set in the catalog"),
        ("window", memory["window_gib"], _token_size(memory)),
    ]
    for label, size, note in rows:
        if size is not None:
            yield f"memory: {label:9}{size:>8.2f} GiB  {note}".rstrip()
    longest = f"; its config.json allows {memory['longest']} tokens" if memory["longest"] else ""
    yield f"memory: {memory['note']}{longest}"


def section(title: str) -> Iterator[StyledLine | str]:
    """Yield the heading of a section."""
    yield ""
    yield StyledLine(f"# {title}", "bold")


def shell_command(argv: Sequence[str]) -> str:
    """Return the command quoted for a shell; a leading `~/` still means the home folder."""
    return " \\\n    ".join(map(_quoted, argv))


def _placement_lines(placement: Json) -> Iterator[str]:
    nodes = f"{placement['nodes']} nodes with " if placement["nodes"] > 1 else ""
    gpus = f"{placement['gpus']} x {placement['gpu_type']}" if placement["gpus"] else "no GPU"
    if placement.get("whole_node_gpus"):
        gpus += f" of {placement['whole_node_gpus']}, as jobs get whole nodes there"
    share = f"{placement['cpus']} CPUs and {placement['memory_gib']} GiB per node"
    yield f"{placement['partition']}: {nodes}{gpus}, {share}, {_walltime(placement['walltime_s'])}"
    if placement["why"]:
        yield f"why: {placement['why']}"


def _token_size(memory: Json) -> str:
    each = f", {memory['token_bytes'] / 1024:.1f} KiB per token" if memory["token_bytes"] else ""
    return f"of {memory['window']} tokens{each}"


def _walltime(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"


def _quoted(argument: str) -> str:
    home = HOME.match(argument)
    if not home:
        return shlex.quote(argument)
    return f'{home.group(1) or ""}"$HOME"/{shlex.quote(argument[home.end() :])}'
