"""Downloads as people read them: a table, a line, and how far one is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from bouchet_cli.client.records import Download

from .line import Line, clean
from .models import in_bytes
from .tables import duration, table

STYLES = {"done": "green", "failed": "red", "cancelled": "dim", "queued": "yellow", "running": "cyan"}


def counts(download: Download) -> str:
    """28.0 GiB of 61.0 GiB (45 %), 393 MiB/s, 1m left; empty before anything is known."""
    if download.total_bytes is None:
        return ""
    words = f"{in_bytes(download.bytes)} of {in_bytes(download.total_bytes)} ({download.percent} %)"
    if download.state != "running" or not download.rate:
        return words
    left = f", {duration(download.eta_s)} left" if download.eta_s else ""
    return f"{words}, {in_bytes(download.rate)}/s{left}"


def summary_of(download: Download) -> str:
    """State, counts and reason in one line."""
    parts = [counts(download), "" if download.reason == "fetching" else clean(download.reason)]
    return f"{download.model} {download.state}: {'; '.join(part for part in parts if part)}".rstrip(": ")


def downloads_lines(downloads: Sequence[Download], width: int, now: datetime) -> list[Line]:
    """A row and a note for each."""
    rows = [
        (d.model, d.state, counts(d) or "-", f"{duration((now - d.updated_at).total_seconds())} ago") for d in downloads
    ]
    notes = [f"id {d.id}{': ' if d.reason else ''}{d.reason}" for d in downloads]
    styles = [STYLES.get(d.state, "") for d in downloads]
    return table(("MODEL", "STATE", "BYTES", "CHANGED"), rows, width, notes=notes, styles=styles)


def bar_of(download: Download) -> dict[str, Any]:
    """Where rich's bar stands, and the words beside it."""
    doing = download.state if download.reason == "fetching" else f"{download.state}: {clean(download.reason)}"
    return {
        "description": f"{download.model} {doing if download.total_bytes else download.state}",
        "total": download.total_bytes,
        "completed": download.bytes,
        "counts": counts(download) or clean(download.reason),
    }
