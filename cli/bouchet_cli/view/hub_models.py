"""One model in full: of the catalog, or of the hub with the entry that is proposed for it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from bouchet_cli.client.http import Json

from .screen import StyledLine
from .tables import Column, age, binary_size, table, tokens

FIT_COLUMNS = (
    Column("GPUS"),
    Column("QUANT", rank=2),
    Column("FITS"),
    Column("CTX", right=True),
    Column("AT ONCE", right=True, rank=1),
    Column("WEIGHTS/GPU", right=True, rank=3),
)
LABEL_WIDTH = 14


def proposal_lines(found: Json, width: int) -> Iterator[StyledLine | str]:
    """Yield what the hub says, what fits where, and the proposed entry."""
    yield _row("model", found["model"])
    yield _row("commit", found["commit"])
    yield _row("architecture", found["architecture"])
    yield _row("download", f"{binary_size(found['bytes'])} in {found['files']} files")
    if found["fits"]:
        yield ""
        yield from fit_lines(found["fits"], found["entry"], width)
    for note in found["notes"]:
        yield f"note: {note}"
    yield ""
    yield f"proposed entry for {found['file']}:"
    yield found["block"].rstrip("\n")
    yield ""


def fit_lines(fits: Sequence[Json], entry: Json, width: int) -> list[StyledLine]:
    """Return a table of GPUs, the proposed one in green."""
    rows, styles = [], []
    for fit in fits:
        at_once, weights = fit["conversations"], fit["weights_gib"]
        rows.append(
            [
                f"{fit['gpus']} x {fit['gpu_type']}",
                fit["quant"],
                "yes" if fit["fits"] else "no",
                tokens(fit["window"]),
                "-" if at_once is None else f"{at_once:g}",
                "-" if weights is None else f"{weights:g} GiB",
            ]
        )
        chosen = (fit["gpus"], fit["quant"], fit["window"]) == (entry["gpus"], entry["quant"], entry["window"])
        styles.append("green" if chosen else ("" if fit["fits"] else "dim"))
    return table(FIT_COLUMNS, rows, width, styles=styles)


def details_lines(found: Json, now: datetime) -> Iterator[StyledLine | str]:
    """Yield a model of the catalog: where its weights are, what serves it, and its entry."""
    disk = found["disk"]
    yield _row("model", found["id"])
    yield _row("clients' name", found["alias"])
    yield _row("weights", _weights(found, disk))
    if disk.get("revision"):
        yield _row("commit", disk["revision"])
    if disk.get("last_used"):
        yield _row("last used", age(datetime.fromisoformat(disk["last_used"]), now))
    live = [f"{one['name']} ({one['phase']})" for one in found["live"]]
    yield _row("deployments", ", ".join(live) or "none")
    yield ""
    yield f"entry in {found['file'] if found['added'] else 'models.yaml'}, or a catalog of the site:"
    yield found["block"].rstrip("\n")


def _weights(found: Json, disk: Json) -> str:
    place = f" in {disk['shared']}, which is shared" if disk.get("shared") else " on the cluster"
    size = binary_size(disk["bytes"]) if disk.get("bytes") else ""
    if disk["state"] == "ready":
        return f"{size}{place}".strip()
    planned = f", about {found['weights_gib']:g} GiB" if found["weights_gib"] else ""
    return {"partial": f"partly downloaded ({size})", "missing": f"not on the cluster{planned}"}.get(
        disk["state"], f"unknown until the cluster has been listed{planned}"
    )


def _row(label: str, value: str) -> str:
    return f"{label:{LABEL_WIDTH}}{value}"
