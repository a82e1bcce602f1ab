"""The catalog as people read it: what each model needs, and what of it lies on the cluster. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bouchet_cli.client.records import Json

from .line import Line
from .tables import WIDE, duration, table, tokens

HEAD = ("MODEL", "GPUS", "CTX", "QUANT", "STATUS", "SIZE", "USED")
STYLES: Mapping[str, str] = {"ready": "green", "partial": "yellow", "missing": "dim", "unknown": "dim"}


@dataclass(frozen=True)
class Model:
    """An entry of the catalog. `state` is the disk's: ready, partial, missing, unknown; `runs` a deployment's phase."""

    id: str
    alias: str
    description: str
    gpus: int
    window: int
    quant: str
    state: str = "unknown"
    percent: int | None = None
    bytes: int | None = None
    last_used: datetime | None = None
    runs: str = ""

    @property
    def status(self) -> str:
        """ready, partial 43 %, missing or unknown."""
        return f"partial {self.percent} %" if self.state == "partial" and self.percent is not None else self.state

    @classmethod
    def from_json(cls, raw: Json) -> Model:
        """One element of GET /v1/models."""
        phases = [live["phase"] for live in raw.get("live") or ()]
        disk: Json = raw.get("disk") or {}
        used = disk.get("last_used")
        return cls(
            *(raw["id"], raw["alias"], raw["description"], raw["gpus"], raw["window"], raw["quant"]),
            state=disk.get("state") or "unknown",
            percent=disk.get("percent"),
            bytes=disk.get("bytes"),
            last_used=datetime.fromisoformat(used) if used else None,
            runs="ready" if "ready" in phases else (phases[0] if phases else ""),
        )


def models_lines(models: Sequence[Model], default: str | None, width: int, now: datetime) -> list[Line]:
    """The catalog; descriptions go below their model where a column has no room."""
    rows = [_row(m, now) for m in models]
    said = [_words(m, default) for m in models]
    styles = [STYLES.get(m.state, "") for m in models]
    if width < WIDE:
        notes = [f"{m.alias}: {words}" for m, words in zip(models, said, strict=True)]
        return table(HEAD, rows, width, notes=notes, styles=styles, right=(1, 2, 5, 6), styled=4)
    wide = [[*row, m.alias, words] for row, m, words in zip(rows, models, said, strict=True)]
    return table([*HEAD, "NAME", "DESCRIPTION"], wide, width, styles=styles, right=(1, 2, 5, 6), styled=4)


def _row(model: Model, now: datetime) -> list[str]:
    used = f"{duration((now - model.last_used).total_seconds())} ago" if model.last_used else "-"
    size = in_bytes(model.bytes) if model.bytes else "-"
    return [model.id, str(model.gpus), tokens(model.window), model.quant, model.status, size, used]


def _words(model: Model, default: str | None) -> str:
    notes = ["default"] if model.id == default else []
    notes += [f"runs: {model.runs}"] if model.runs else []
    return f"{model.description} ({', '.join(notes)})" if notes else model.description


def in_bytes(count: float) -> str:
    """12.3 GiB, 340 MiB, 12 B."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.1f} {unit}" if unit == "GiB" else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
