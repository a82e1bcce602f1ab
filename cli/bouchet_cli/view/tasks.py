"""Failed tasks of the worker and orphaned jobs on the cluster, as people see them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from bouchet_cli.client.http import Json

from .screen import StyledLine
from .tables import Column, age, plural, table

TASK_COLUMNS = (Column("ID"), Column("TASK", rank=2), Column("DEPLOYMENT", flexible=True), Column("FAILED", rank=1))
ORPHAN_COLUMNS = (
    Column("JOB"),
    Column("JOB NAME", flexible=True),
    Column("STATE"),
    Column("NODE", rank=2),
    Column("MODEL", flexible=True, rank=1),
    Column("INSTALLATION", rank=3),
)
OWNERS = {"this": "this one", "another": "another", "unknown": "unknown"}


@dataclass(frozen=True)
class OrphanInfo:
    """A Slurm job that no deployment lists. owner: this, another or unknown (installation)."""

    slurm_id: int
    name: str
    state: str
    node: str | None
    model: str
    owner: str
    note: str

    @classmethod
    def from_json(cls, raw: Json) -> OrphanInfo:
        """Parse one element of GET /v1/orphans."""
        model = raw["names"][0] if raw.get("names") else raw.get("model") or ""
        fields = (raw["slurm_id"], raw["name"], raw["state"], raw.get("node"), model, raw["owner"])
        return cls(*fields, note=raw.get("note") or "")


def orphan_lines(orphans: Sequence[OrphanInfo], width: int) -> list[StyledLine]:
    """Return a table with a row and a note for each orphan."""
    rows = [(str(o.slurm_id), o.name, o.state, o.node or "-", o.model or "-", OWNERS[o.owner]) for o in orphans]
    return table(ORPHAN_COLUMNS, rows, width, notes=[o.note for o in orphans])


def orphan_hint(orphans: Sequence[Json]) -> str:
    """Return the line of `bouchet status` about orphans, empty if there are none."""
    others = sum(one["owner"] == "another" for one in orphans)
    own = len(orphans) - others
    if own:
        return f"{plural(own, 'orphaned Slurm job')} on the cluster; see `bouchet orphans`"
    if others:
        return f"{plural(others, 'Slurm job')} of another installation on the cluster; see `bouchet orphans --all`"
    return ""


def task_lines(failed: Sequence[Json], width: int, now: datetime) -> list[StyledLine]:
    """Return a table with a row for each failed task, and the reason below it."""
    rows = [(one["id"], one["task"], one["deployment"], _failed_at(one, now)) for one in failed]
    return table(TASK_COLUMNS, rows, width, notes=[one["reason"] for one in failed])


def _failed_at(failed: Json, now: datetime) -> str:
    if not failed.get("failed_at"):
        return "-"
    moment = datetime.fromisoformat(failed["failed_at"])
    return age(moment if moment.tzinfo else moment.replace(tzinfo=UTC), now)
