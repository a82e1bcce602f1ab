"""How far vLLM's start has come, read from the end of its log.

For people only: ready is an answer over HTTP, never a line in a log.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_Match = re.Match[str]


@dataclass(frozen=True)
class _Sign:
    """A line that tells of a step. The words may use the match."""

    pattern: re.Pattern[str]
    words: Callable[[_Match], str]


def _sign(pattern: str, words: str | Callable[[_Match], str]) -> _Sign:
    return _Sign(re.compile(pattern), words if callable(words) else lambda _: words)


# from vLLM 0.19 and 0.32, and our own batch script; of the signs in a line the first wins, of the lines the last
_SIGNS = (
    _sign(r"^bouchet: (.+)", lambda m: m.group(1)),
    _sign(r"Loading \S+ checkpoint shards:.*\|\s*(\d+)/(\d+)", lambda m: f"loading weights, {m[1]} of {m[2]} files"),
    _sign(r"Auto-prefetch|Prefetching checkpoint", "reading the weights from storage"),
    _sign(r"Starting to load model", "loading weights"),
    _sign(r"Model loading took ([\d.]+ ?GiB)", lambda m: f"weights loaded ({m[1]})"),
    _sign(r"Loading weights took ([\d.]+) seconds", lambda m: f"weights loaded in {float(m[1]):.0f} s"),
    _sign(r"Dynamo bytecode transform|Compiling a graph|torch\.compile (?:takes|took)|Start compiling", "compiling"),
    _sign(r"Available KV cache memory|GPU KV cache size|CPU KV cache size", "laying out the KV cache"),
    _sign(r"Captur\w+ CUDA graphs?.*?(\d+)/(\d+)", lambda m: f"capturing graphs, {m[1]} of {m[2]}"),
    _sign(r"Graph capturing finished", "graphs captured"),
    _sign(r"[Ww]arm(?:ing)?[ -]?up", "warming up"),
    _sign(r"init engine .*took", "engine ready, starting the server"),
    _sign(r"Starting vLLM (?:\w+ )?server|Waiting for application startup", "starting the server"),
    _sign(r"Application startup complete", "server up"),
    _sign(r"vLLM API server version|Initializing a V1 LLM engine|Resolved architecture", "vLLM is starting"),
)  # fmt: skip


def progress_in(log: str) -> str:
    """The last step that the log tells of, in words; empty when it tells of none."""
    # progress bars rewrite their line with carriage returns
    for line in reversed(re.split(r"[\r\n]+", log)):
        for sign in _SIGNS:
            found = sign.pattern.search(line)
            if found:
                return sign.words(found)
    return ""
