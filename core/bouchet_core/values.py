"""The base of all values that pass between packages, their string types, and durations."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints
from pydantic_core import PydanticCustomError

from .errors import SlurmOutputError


class FrozenModel(BaseModel):
    """An immutable value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


# what is not seen where it is shown, or turns the text after it; terminal and dashboard have the same. Some of it
# (fillers of Hangul, the joiner of graphemes) is printable for Python
UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    r"\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f]"
)
DeploymentName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")]
# a name of Slurm's: partition, account, QOS, constraint, GPU type
SlurmWord = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:&|,-]{0,127}$")]
Walltime = Annotated[str, StringConstraints(pattern=r"^([0-9]{1,3}-)?[0-9]{1,3}(:[0-5]?[0-9]){0,2}$")]
# how a job asks for GPUs: with sbatch's option of that name, or with none where whole nodes are given
CpuArch = Literal["x86_64", "aarch64"]
GpuRequest = Literal["gpus", "gpus-per-node", "gpus-per-task", "gres", "none"]
# `org/name` on the Hugging Face hub
HubId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")]
# a path on the cluster; `~` is the user's home there
RemotePath = Annotated[str, StringConstraints(pattern=r"^(~|/)[A-Za-z0-9_./@+=-]*$")]
ShellWord = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./+-]+$")]
# text without line breaks: job parameters are written one to a line
SingleLine = Annotated[str, StringConstraints(pattern=r"^[^\n\r\x00]+$")]


def _refuse_other_types(value: Any) -> Any:
    if isinstance(value, (str, bytes, bool)):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


# of a JSON body: 2 and 2.0 as JSON schema has it, not "2" or true. It comes after a field's limits, which the schema
# would not show otherwise: Annotated[int, Field(ge=1), WHOLE]
WHOLE = BeforeValidator(_refuse_other_types)

TIME_SPAN_PATTERN = r"^[1-9][0-9]{0,4}[smhdw]$"
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
# 90s, 15m, 24h, 30d or 2w
TimeSpan = Annotated[str, StringConstraints(pattern=TIME_SPAN_PATTERN)]


def is_seen(character: str) -> bool:
    """Return whether a character is seen as it is, in a line."""
    return character.isprintable() and not UNSEEN.match(character)


def pin_arch(pin: str) -> CpuArch:
    """Return the CPU type that an image is made for: the name of one for arm64 has that part, as its file has."""
    return "aarch64" if "arm64" in pin.split("-") else "x86_64"


def parse_duration(text: str) -> int:
    """Return the seconds of `M`, `M:S`, `H:M:S`, `D-H`, `D-H:M` or `D-H:M:S`: the forms that sbatch --time takes.

    Raises SlurmOutputError for anything else.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip(), re.ASCII)
    if not found:
        raise SlurmOutputError("Slurm (a duration)", text)
    days, one, two, three = (int(part) if part is not None else None for part in found.groups())
    if days is not None:
        hours, minutes, seconds = one or 0, two or 0, three or 0
    elif three is not None:
        hours, minutes, seconds = one or 0, two or 0, three
    else:
        hours, minutes, seconds = 0, one or 0, two or 0
    return ((days or 0) * 24 + hours) * 3600 + minutes * 60 + seconds


def format_duration(seconds: int) -> str:
    """Return `HH:MM:SS`, with `D-` before it from 24 h on."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours:02}:{minutes:02}:{rest:02}"
    return f"{days}-{clock}" if days else clock


def parse_time_span(text: str) -> timedelta:
    """Parse a time span; raise ValueError for other text."""
    if not re.match(TIME_SPAN_PATTERN, text):
        raise ValueError(f"{text!r} is not a time span such as 15m, 24h or 30d")
    return timedelta(seconds=int(text[:-1]) * _UNIT_SECONDS[text[-1]])
