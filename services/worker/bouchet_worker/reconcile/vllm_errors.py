"""What vLLM's last error lines mean, and what to do about it. Wordings of vLLM 0.19 to 0.32, PyTorch and CUDA."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_Match = re.Match[str]

# what a main process says after the process that knows the cause
_ECHO = re.compile(
    r"Engine core initialization failed|See root cause above|EngineDeadError|Engine process failed|died unexpectedly"
    r"|validation errors? for \w+Response"
)
_GONE = "its engine was killed or crashed: launch again; if it was for its use of memory, more --gpus bring more"
_NO_ROOM = "the GPUs' memory does not hold it: a smaller --max-len, --quant fp8, or more --gpus"
_OLD_DRIVER = "the node's driver is too old for this image: `image:` in models.yaml names one for an older CUDA"


def _longest(found: _Match) -> str:
    return f"the window does not fit beside the weights: launch with --max-len {found[1]} at most, or more --gpus"


def _parser(found: _Match) -> str:
    field = "tool_parser" if found[1] == "tool-call" else "reasoning_parser"
    return f"its {field} in models.yaml is another model's: correct it there, or leave it out"


_CAUSES: tuple[tuple[str, str | Callable[[_Match], str]], ...] = (
    (r"estimated maximum model length is (\d+)", _longest),
    (r"KV cache is needed, which is larger|No available memory for the cache blocks", _NO_ROOM),
    (r"CUDA out of memory|OutOfMemoryError: (?:CUDA|HIP)|CUDA error: out of memory", _NO_ROOM),
    (r"Free memory on device .* is less than desired", "another program holds memory of this GPU: launch again"),
    (r"driver on your system is too old|driver version is insufficient|unsupported display driver", _OLD_DRIVER),
    (r"no kernel image is available", "this image is not built for this kind of GPU: another `image:` in models.yaml"),
    (r"No CUDA GPUs are available|Failed to infer device type", "the job saw no GPU: launch again, or ask the site"),
    (r"No space left on device|Disk quota exceeded", "a disk is full: make room in the site file's directories"),
    (r"[Aa]ddress already in use", "its port was taken in between: launch again"),
    (r"unrecognized arguments: (.+)", lambda m: f"this vLLM has no option {m[1]}: correct extra_args in models.yaml"),
    (r"--(tool-call|reasoning)-parser \S+ cannot be used", _parser),
    (r"[Mm]odel architectures? .* not supported|does not recognize this architecture", "the model needs a newer image"),
    (r"SafetensorError|HeaderToo|MetadataIncomplete", "its weights are not whole: `bouchet download` fetches the rest"),
    (r"FATAL: .*([Ii]mage|squashfs)", "Apptainer cannot mount the image: `bouchet image verify` says why"),
    (r"Cannot allocate memory|MemoryError", "the node's memory does not hold it: more --gpus bring more memory"),
)  # fmt: skip


def cause_of(tail: Sequence[str]) -> str:
    """The line that says most of these, empty when there is none."""
    telling = [line for line in tail if advice_for(line)]
    plain = [line for line in tail if not _ECHO.search(line)]
    return (telling or plain or list(tail[:1]) or [""])[-1]


def advice_for_cause(line: str) -> str:
    """What to do about the line that says most, also where that is only that an engine is gone."""
    return advice_for(line) or (_GONE if _ECHO.search(line) else "")


def advice_for(line: str) -> str:
    """What to do about an error line, empty where that is not known."""
    for pattern, words in _CAUSES:
        found = re.search(pattern, line)
        if found:
            return words if isinstance(words, str) else words(found)
    return ""
