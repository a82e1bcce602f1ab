"""What a proof measured, as lines of pin.yaml and as a row of docs/images.md. Pure: text in, text out."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

GIB = 1 << 30
# other file systems, and packages of another day
HEADROOM = 1.1
BEGIN, END = "<!-- figures of `make image-proof` -->", "<!-- end of the figures -->"
HEAD = """\
| pin | wheels | staged in | built in | disk of the node | image | verified in |
|---|---|---|---|---|---|---|
"""
MEASURED = "measured on the demo cluster by `make image-proof`, a tenth added"


@dataclass(frozen=True)
class ImageProof:
    """One pin. staged_s: None where everything was staged before; peak_bytes: the most that a build held in /tmp."""

    pin: str
    wheels: int
    wheels_bytes: int
    staged_s: float | None
    built_s: float
    peak_bytes: int
    image_bytes: int
    verified_s: float


def gib_to_reserve(size: int) -> int:
    """Return the whole GiB that a build asks for, so that this many bytes fit with some headroom."""
    return max(1, math.ceil(size / GIB * HEADROOM))


def with_sizes(text: str, proof: ImageProof) -> str:
    """Return pin.yaml with the sizes that were measured, and its comment with where they are from; all else stays.

    Raises ValueError where a line of a size is missing.
    """
    sizes = {"build_gib": proof.peak_bytes, "image_gib": proof.image_bytes}
    for name, size in sizes.items():
        text, found = re.subn(rf"(?m)^{name}: *\d+", f"{name}: {gib_to_reserve(size)}", text)
        if found != 1:
            raise ValueError(f"pin.yaml has {found} lines `{name}:`")
    return re.sub(r"(?m)^(# what a build takes [^(\n]*?)(?: \(.*\))?\n(?=build_gib:)", rf"\1 ({MEASURED})\n", text)


def with_row(document: str, proof: ImageProof) -> str:
    """Return the document with this pin's row in its table of figures; the rows of other pins stay.

    Raises ValueError for a document without the table's two comments.
    """
    before, begin, rest = document.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no {BEGIN} ... {END}")
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("| `")}
    rows[f"`{proof.pin}`"] = row(proof)
    lines = "".join(f"{rows[name]}\n" for name in sorted(rows))
    return f"{before}{begin}\n{HEAD}{lines}{end}{after}"


def row(proof: ImageProof) -> str:
    """Return the pin's row."""
    staged = "staged before" if proof.staged_s is None else f"{proof.staged_s:.0f} s"
    cells = (
        f"`{proof.pin}`", f"{proof.wheels}, {gib(proof.wheels_bytes)}", staged, f"{proof.built_s:.0f} s",
        gib(proof.peak_bytes), gib(proof.image_bytes), f"{proof.verified_s:.0f} s",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def gib(size: int) -> str:
    """Format bytes in GiB."""
    return f"{size / GIB:.1f} GiB"
