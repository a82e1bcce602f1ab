"""The catalog with what is on the cluster, and downloads, as people see them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bouchet_cli.client.http import Json
from bouchet_cli.client.records import DownloadInfo

from .screen import StyledLine, clean
from .tables import Column, age, binary_size, duration, table, tokens

# from this width on, the description has a column of its own
WIDE = 110
NARROW_COLUMNS = (
    Column("MODEL", flexible=True),
    Column("GPUS", right=True, rank=3),
    Column("CTX", right=True, rank=2),
    Column("QUANT", rank=5),
    Column("STATUS"),
    Column("SIZE", right=True, rank=1),
    Column("USED", right=True, rank=4),
)
WIDE_COLUMNS = (*NARROW_COLUMNS, Column("NAME", flexible=True), Column("DESCRIPTION", flexible=True))
STATUS_COLUMN = 4
STATUS_STYLE: Mapping[str, str] = {"ready": "green", "partial": "yellow", "missing": "dim", "unknown": "dim"}
# what can be launched now comes first
ORDER = ("ready", "partial")
GIB = 1 << 30
DOWNLOAD_COLUMNS = (Column("MODEL", flexible=True), Column("STATE"), Column("BYTES", rank=1), Column("CHANGED", rank=2))
DOWNLOAD_STYLE = {"done": "green", "failed": "red", "cancelled": "dim", "queued": "yellow", "running": "cyan"}
# the reason of a download that runs normally
FETCHING = "downloading"


@dataclass(frozen=True)
class ModelInfo:
    """An entry of the catalog. state: ready, partial, missing or unknown on the disk; phase: of its deployment."""

    id: str
    alias: str
    description: str
    gpus: int
    # tokens
    window: int
    quant: str
    state: str = "unknown"
    percent: int | None = None
    bytes: int | None = None
    last_used: datetime | None = None
    phase: str = ""
    weights_gib: float | None = None

    @property
    def size(self) -> str:
        """The size on disk; of a model that is not there, about what it will be."""
        if self.bytes:
            return binary_size(self.bytes)
        return f"~{binary_size(self.weights_gib * GIB)}" if self.weights_gib else "-"

    @property
    def status(self) -> str:
        """The state, with the percent of a partial download."""
        return f"partial {self.percent} %" if self.state == "partial" and self.percent is not None else self.state

    @classmethod
    def from_json(cls, raw: Json) -> ModelInfo:
        """Parse one element of GET /v1/models."""
        phases = [live["phase"] for live in raw.get("live") or ()]
        disk: Json = raw.get("disk") or {}
        used = disk.get("last_used")
        return cls(
            *(raw["id"], raw["alias"], raw["description"], raw["gpus"], raw["window"], raw["quant"]),
            state=disk.get("state") or "unknown",
            percent=disk.get("percent"),
            bytes=disk.get("bytes"),
            last_used=datetime.fromisoformat(used) if used else None,
            phase="ready" if "ready" in phases else (phases[0] if phases else ""),
            weights_gib=raw.get("weights_gib"),
        )


def model_lines(models: Sequence[ModelInfo], default: str | None, width: int, now: datetime) -> list[StyledLine]:
    """Return the catalog as a table; on a narrow terminal each description is a note below its model."""
    models = sorted(models, key=lambda model: ORDER.index(model.state) if model.state in ORDER else len(ORDER))
    rows = [_model_row(model, now) for model in models]
    descriptions = [_description(model, default) for model in models]
    styles = [STATUS_STYLE.get(model.state, "") for model in models]
    if width < WIDE:
        notes = [f"{model.alias}: {text}" for model, text in zip(models, descriptions, strict=True)]
        return table(NARROW_COLUMNS, rows, width, notes=notes, styles=styles, styled=STATUS_COLUMN)
    wide = [[*row, model.alias, text] for row, model, text in zip(rows, models, descriptions, strict=True)]
    return table(WIDE_COLUMNS, wide, width, styles=styles, styled=STATUS_COLUMN)


def download_progress(download: DownloadInfo) -> str:
    """Return "28.0 GiB of 61.0 GiB (45 %), 393 MiB/s, 1m left"; empty while the size is unknown."""
    if download.total_bytes is None:
        return ""
    amount = f"{binary_size(download.bytes)} of {binary_size(download.total_bytes)} ({download.percent} %)"
    if download.state != "running" or not download.rate:
        return amount
    left = f", {duration(download.eta_s)} left" if download.eta_s else ""
    return f"{amount}, {binary_size(download.rate)}/s{left}"


def download_line(download: DownloadInfo) -> str:
    """Return state, progress and reason in one line."""
    parts = [download_progress(download), "" if download.reason == FETCHING else clean(download.reason)]
    return f"{download.model} {download.state}: {'; '.join(part for part in parts if part)}".rstrip(": ")


def download_lines(downloads: Sequence[DownloadInfo], width: int, now: datetime) -> list[StyledLine]:
    """Return a table with a row and a note for each download."""
    rows = [(d.model, d.state, download_progress(d) or "-", age(d.updated_at, now)) for d in downloads]
    notes = [f"id {d.id}{': ' if d.reason else ''}{d.reason}" for d in downloads]
    styles = [DOWNLOAD_STYLE.get(d.state, "") for d in downloads]
    return table(DOWNLOAD_COLUMNS, rows, width, notes=notes, styles=styles)


def download_bar(download: DownloadInfo) -> dict[str, Any]:
    """Return the fields of the progress bar."""
    state = download.state if download.reason == FETCHING else f"{download.state}: {clean(download.reason)}"
    return {
        "description": f"{download.model} {state if download.total_bytes else download.state}",
        "total": download.total_bytes,
        "completed": download.bytes,
        "counts": download_progress(download) or clean(download.reason),
    }


def _model_row(model: ModelInfo, now: datetime) -> list[str]:
    used = "now" if model.phase == "ready" else (age(model.last_used, now) if model.last_used else "-")
    return [model.id, str(model.gpus), tokens(model.window), model.quant, model.status, model.size, used]


def _description(model: ModelInfo, default: str | None) -> str:
    notes = ["default"] if model.id == default else []
    notes += [f"deployment: {model.phase}"] if model.phase else []
    return f"{model.description} ({', '.join(notes)})" if notes else model.description
