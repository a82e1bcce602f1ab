"""Jobs without a record, as the API shows them and as people see them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bouchet_cli.client.records import Json

from .line import Line
from .tables import table

OWNERS = {"this": "this one", "another": "another", "unknown": "unknown"}


@dataclass(frozen=True)
class Orphan:
    """One job."""

    slurm_id: int
    name: str
    state: str
    node: str | None
    served: str
    owner: str
    note: str

    @classmethod
    def from_json(cls, raw: Json) -> Orphan:
        """One element of GET /v1/orphans."""
        served = raw["names"][0] if raw.get("names") else raw.get("model") or ""
        fields = (raw["slurm_id"], raw["name"], raw["state"], raw.get("node"), served, raw["owner"])
        return cls(*fields, note=raw.get("note") or "")


def orphan_lines(orphans: Sequence[Orphan], width: int) -> list[Line]:
    """A row and a note for each."""
    rows = [(str(o.slurm_id), o.name, o.state, o.node or "-", o.served or "-", OWNERS[o.owner]) for o in orphans]
    head = ("JOB", "JOB NAME", "STATE", "NODE", "SERVES", "INSTALLATION")
    return table(head, rows, width, notes=[o.note for o in orphans])


def orphan_hint(raw: Sequence[Json]) -> str:
    """The line of `bouchet status` about them, empty when there is nothing to say."""
    owners = [one["owner"] for one in raw]
    own, others = len([o for o in owners if o != "another"]), owners.count("another")
    if own:
        return f"{own} {_jobs(own)} on the cluster without a record: `bouchet orphans`"
    return f"{others} {_jobs(others)} of another installation on the cluster: `bouchet orphans --all`" if others else ""


def _jobs(count: int) -> str:
    return "job" if count == 1 else "jobs"
