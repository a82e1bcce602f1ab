"""Lists as people see them: images with the progress of a build, API keys and usage, failed tasks and orphans. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bouchet_cli.client.http import Json
from bouchet_cli.client.records import ImageJobInfo

from .screen import StyledLine, clean
from .tables import Column, age, bar, binary_size, duration, milliseconds, plural, short_count, table

COLUMNS = (
    Column("PIN"),
    Column("STATE"),
    Column("VLLM", rank=1),
    Column("TORCH", rank=5),
    Column("CUDA", rank=4),
    Column("DRIVER", rank=3),
    Column("SIZE", rank=2),
    Column("SHA256", rank=6),
)
DIGEST_LENGTH = 8
STATE_STYLE = {"ready": "green", "outdated": "yellow", "missing": "dim", "unknown": "dim"}
# stage -> unit of its steps
UNITS = {"packages": "packages", "compile": "groups of files", "hash": "MiB"}


def image_lines(images: Sequence[Json], width: int) -> list[StyledLine]:
    """Return a table with a row and a note for each image."""
    notes = [_note(image) for image in images]
    styles = [STATE_STYLE.get(image["state"], "") for image in images]
    return table(COLUMNS, [_row(image) for image in images], width, notes=notes, styles=styles)


def image_job_line(job: ImageJobInfo) -> str:
    """Return state, step and progress of a build in one line."""
    counted = f": {_steps(job, ' of ')}" if job.of and job.state == "running" else ""
    return f"{job.pin} {job.state}: {clean(job.reason)}{counted}".rstrip(": ")


def image_job_bar(job: ImageJobInfo) -> dict[str, Any]:
    """Return the fields of the progress bar."""
    return {
        "description": f"{job.pin} {job.state}: {clean(job.reason)}",
        "total": job.of or None,
        "completed": job.done,
        "counts": _steps(job, "/") if job.of else "",
    }


def _steps(job: ImageJobInfo, separator: str) -> str:
    return f"{job.done}{separator}{job.of} {UNITS.get(job.stage, '')}".rstrip()


def _row(image: Json) -> tuple[str, ...]:
    size = binary_size(image["bytes"]) if image.get("bytes") else "-"
    driver = f">={image['min_driver']}" if image.get("min_driver") else "-"
    # the local version (`+cpu`, `+cu130`) repeats the CUDA column
    versions = [str(image.get(name) or "-").partition("+")[0] for name in ("vllm", "torch", "cuda")]
    digest = (image.get("sha256") or "-")[:DIGEST_LENGTH]
    return (image["pin"], image["state"], *versions, driver, size, digest)


def _note(image: Json) -> str:
    """Return who uses the image, and what is unusual about it."""
    notes = []
    if image.get("deployments"):
        notes.append(f"used by {', '.join(image['deployments'])}")
    if image.get("is_default"):
        notes.append("default image of the site")
    elif not image.get("in_site"):
        notes.append("not in the site file, so launches do not use it")
    if image.get("models"):
        notes.append(f"for {', '.join(image['models'])}")
    if not image.get("known", True):
        notes.append("there is no pin of this name")
    if image["state"] == "outdated":
        notes.append("built from an older recipe; rebuild it with `bouchet image build`")
    if image.get("oci"):
        notes.append(f"based on {image['oci']}")
    return "; ".join(notes)


KEY_COLUMNS = (
    Column("HOLDER", flexible=True),
    Column("KEY"),
    Column("REQ/MIN", right=True, rank=2),
    Column("TOK/MIN", right=True, rank=3),
    Column("CREATED", rank=4),
    Column("EXPIRES", rank=1),
)
BAR_COLUMN = 2


def key_lines(keys: Sequence[Json], width: int, now: datetime) -> list[StyledLine]:
    """Return a table with a row for each key."""
    return table(KEY_COLUMNS, [_key_row(key, now) for key in keys], width)


def usage_lines(by: str, usage: Sequence[Json], width: int) -> list[StyledLine]:
    """Return a table with a row for each key, model, session or deployment, and its errors below."""
    columns = (
        Column(by.upper(), flexible=True),
        Column("TOKENS", right=True),
        Column("", rank=9),
        Column("REQ", right=True, rank=2),
        Column("INPUT", right=True, rank=4),
        Column("CACHED", right=True, rank=5),
        Column("OUTPUT", right=True, rank=3),
        Column("TTFT", right=True, rank=6),
        Column("TOK/S", right=True, rank=7),
        Column("ERR", right=True, rank=1),
    )
    largest = max((_tokens(one) for one in usage), default=0)
    rows = [_usage_row(one, largest) for one in usage]
    notes = [_errors(one["errors_by_kind"]) for one in usage]
    return table(columns, rows, width, notes=notes, styles=["cyan"] * len(rows), styled=BAR_COLUMN)


def _key_row(key: Json, now: datetime) -> tuple[str, ...]:
    expires = "never"
    if key["expires_at"]:
        moment = datetime.fromisoformat(key["expires_at"])
        left = (moment - now).total_seconds()
        expires = f"in {duration(left)}" if left > 0 else age(moment, now)
    limits = [_limit(key["requests_per_minute"]), _limit(key["tokens_per_minute"])]
    return key["name"], key["shown"], *limits, age(datetime.fromisoformat(key["created_at"]), now), expires


def _usage_row(usage: Json, largest: int) -> tuple[str, ...]:
    first_token, speed = usage["first_token_ms"], usage["tokens_per_second"]
    return (
        usage["name"],
        short_count(_tokens(usage)),
        bar(_tokens(usage), largest),
        short_count(usage["requests"]),
        short_count(usage["input_tokens"]),
        _cached_share(usage["cached_tokens"], usage["input_tokens"]),
        short_count(usage["output_tokens"]),
        "-" if first_token is None else milliseconds(first_token),
        "-" if speed is None else f"{speed:.0f}",
        short_count(usage["errors"]) if usage["errors"] else "-",
    )


def _cached_share(cached: int, computed: int) -> str:
    return f"{100 * cached / (cached + computed):.0f}%" if cached + computed else "-"


def _tokens(usage: Json) -> int:
    return int(usage["input_tokens"]) + int(usage["output_tokens"])


def _limit(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _errors(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1]))


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
