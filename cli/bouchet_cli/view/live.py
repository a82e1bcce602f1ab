"""What `bouchet top` shows: the path, deployments with their figures, open requests. Pure: no clock, no terminal.

A narrow terminal has fewer columns, a short one fewer rows; digits are never cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bouchet_cli.client.deployments import NOTHING_RUNNING, DeploymentInfo
from bouchet_cli.client.http import Json
from bouchet_cli.client.records import StatusInfo

from .deployments import outage_line, state_style
from .lists import orphan_hint
from .screen import StyledLine, cell_width, clean, truncate
from .service import time_left
from .tables import Column, duration, milliseconds, short_count, start_time, table
from .tunnel import tunnel_line

# points of a job that the small chart shows: five minutes
CHART_POINTS = 60
LEVELS = " ▁▂▃▄▅▆▇█"
# figures older than this describe nothing any more
FRESH_S = 120
DEPLOYMENTS = (
    Column("NAME", flexible=True),
    Column("PHASE"),
    Column("RUN", right=True, rank=2),
    Column("WAIT", right=True, rank=3),
    Column("TOK/S", right=True, rank=1),
    Column("KV", right=True, rank=5),
    Column("CACHED", right=True, rank=6),
    Column("FIRST", right=True, rank=7),
    Column("LEFT", right=True, rank=4),
    Column("NODE", rank=8),
    Column("LAST MINUTES", rank=9),
)
REQUESTS = (
    Column("AGE", right=True),
    Column("CLIENT", flexible=True),
    Column("PHASE"),
    Column("TOKENS", right=True),
    Column("TOK/S", right=True, rank=1),
    Column("CACHED", right=True, rank=3),
    Column("KEY", rank=4),
    Column("CONV", rank=5),
    Column("MODEL", flexible=True, rank=2),
)
# what works first
ORDER = ("ready", "starting", "draining", "queued", "submitting", "requested", "parked")
PHASES: Mapping[str, str] = {"held": "held", "sent": "prefill", "decode": "decode"}
PHASE_STYLE: Mapping[str, str] = {"held": "yellow", "prefill": "cyan", "decode": "green"}


@dataclass
class LiveState:
    """The parts of the API's live stream, the last of each; points: by job, the newest last."""

    status: Json | None = None
    requests: Json | None = None
    problem: str = ""
    points: dict[str, deque[Json]] = field(default_factory=dict)

    def take(self, part: str, data: Any) -> None:
        """Take one event of the stream."""
        if part == "status":
            self.status = data
        elif part == "requests":
            self.requests = data
        elif part == "problem":
            self.problem = clean(data["detail"]) if data else ""
        elif part in ("points", "history"):
            for point in data:
                known = self.points.setdefault(point["job"], deque(maxlen=CHART_POINTS))
                if not known or known[-1]["at"] < point["at"]:
                    known.append(point)

    def latest(self, job: str, now: datetime) -> Json:
        """Return the newest figures of a job, empty if it has none that are recent."""
        known = self.points.get(job)
        return known[-1] if known and now.timestamp() - known[-1]["at"] < FRESH_S else {}

    @property
    def info(self) -> StatusInfo | None:
        """The status as other commands have it."""
        if self.status is None:
            return None
        return StatusInfo.from_json({**self.status, "cluster_outage": self.status.get("outage"), "orphans": ()})


def live_lines(state: LiveState, width: int, height: int, now: datetime) -> list[StyledLine]:
    """Return at most `height` lines of at most `width` columns."""
    info = state.info
    if info is None:
        return [StyledLine(state.problem or "waiting for the API", "yellow" if state.problem else "dim")]
    lines = [*_head(state, info, width, now), StyledLine(), *_deployments(state, info, width, now)]
    rows = list((state.requests or {}).get("requests") or ())
    room = height - len(lines) - 2
    if room > 1:
        lines += [StyledLine(), *_requests(state.requests, rows, width, room - 1)]
    return [truncate(line, width) for line in lines[:height]]


def _head(state: LiveState, info: StatusInfo, width: int, now: datetime) -> Iterator[StyledLine]:
    yield path_line(state, info, width, now)
    if state.problem:
        yield StyledLine(state.problem, "yellow")
    if info.tunnel is not None and info.tunnel.state != "up":
        yield truncate(tunnel_line(info.tunnel, now), width)
    elif info.tunnel is None:
        yield StyledLine(f"tunnel: unknown ({info.tunnel_error or 'the gateway does not answer'})", "yellow")
    if info.cluster_outage:
        yield outage_line(info.cluster_outage, now)
    if state.status and state.status.get("orphans"):
        yield StyledLine(orphan_hint([{}] * int(state.status["orphans"])) or "")


def path_line(state: LiveState, info: StatusInfo, width: int, now: datetime) -> StyledLine:
    """Return the way of a request: laptop, proxy, tunnel, job, engine, each with a word; narrow: without the first."""
    steps = _path_steps(state, info, now)
    lines = [_path(steps[first:]) for first in range(len(steps))]
    return next((line for line in lines if cell_width(line.plain) <= width), lines[-1])


def _path(steps: Sequence[tuple[str, str, bool]]) -> StyledLine:
    line = StyledLine()
    for number, (name, word, is_good) in enumerate(steps):
        line.append(" ── " if number else "", "dim").append(f"{name} ", "dim")
        line.append(word, "green" if is_good else "yellow")
    return line


def _path_steps(state: LiveState, info: StatusInfo, now: datetime) -> Sequence[tuple[str, str, bool]]:
    """Return name, word and whether it is well, of each step."""
    status: Json = state.status or {}
    ready = [one for one in info.deployments if one.phase == "ready"]
    job = ready[0].raw["jobs"][-1] if ready else None
    figures = state.latest(job["name"], now) if job else {}
    made = figures.get("made")
    trip = (info.tunnel.raw.get("round_trip_ms") if info.tunnel else None) or 0
    return (
        ("laptop", "ok" if status.get("worker") else "worker silent", bool(status.get("worker"))),
        ("proxy", "ok" if status.get("proxy") else "silent", bool(status.get("proxy"))),
        ("tunnel", _tunnel_word(info, trip), info.tunnel is not None and info.tunnel.state == "up"),
        ("job", str(job["slurm_id"]) if job else "none", job is not None),
        ("vLLM", f"{short_count(round(made))} tok/s" if made is not None else "ok" if job else "none", job is not None),
    )


def _tunnel_word(info: StatusInfo, trip_ms: float) -> str:
    if info.tunnel is None:
        return "unknown"
    if info.tunnel.state == "up":
        return f"{trip_ms:.0f} ms" if trip_ms else "ok"
    return info.tunnel.state.replace("_", " ")


def _deployments(state: LiveState, info: StatusInfo, width: int, now: datetime) -> list[StyledLine]:
    if not info.deployments:
        return [StyledLine(NOTHING_RUNNING)]
    shown = sorted(info.deployments, key=lambda one: ORDER.index(one.phase) if one.phase in ORDER else len(ORDER))
    rows = [_deployment_row(state, one, now) for one in shown]
    return table(DEPLOYMENTS, rows, width, styles=[state_style(one) for one in shown])


def _deployment_row(state: LiveState, one: DeploymentInfo, now: datetime) -> tuple[str, ...]:
    jobs: Sequence[Json] = one.raw.get("jobs") or ({},)
    job = jobs[-1]
    figures = state.latest(job.get("name", ""), now) if one.phase == "ready" else {}
    left = time_left(job, now)
    ends = duration(left.total_seconds()) if left is not None else ""
    if one.phase == "queued" and one.job.start_estimate:
        ends = start_time(one.job.start_estimate, now)
    first = figures.get("first50")
    return (
        one.alias,
        one.state,
        _whole(figures.get("running")),
        _whole(figures.get("waiting")),
        _whole(figures.get("made")),
        _percent(figures.get("kv")),
        _percent(figures.get("hits")),
        milliseconds(round(first * 1000)) if first is not None else "-",
        ends or "-",
        one.job.node or "-",
        chart([point.get("made") or 0.0 for point in state.points.get(job.get("name", ""), ())]) if figures else "",
    )


def _requests(report: Json | None, rows: list[Json], width: int, room: int) -> list[StyledLine]:
    if report is None:
        return [StyledLine("the proxy lists open requests within a few seconds", "dim")]
    if not rows:
        return [StyledLine("no request is open", "dim")]
    shown = rows[: max(1, room - 1)]
    cells = [_request_row(row, report["at"]) for row in shown]
    lines = table(REQUESTS, cells, width, styles=[PHASE_STYLE.get(row[2], "") for row in cells], styled=2)
    hidden = len(rows) - len(shown) + report.get("more", 0)
    return [*lines, StyledLine(f"and {hidden} more", "dim")] if hidden else lines


def _request_row(row: Json, at: float) -> tuple[str, ...]:
    agent, kind = row.get("agent") or "unknown", row.get("kind") or ""
    return (
        duration(at - row.get("began", at)),
        f"{agent} {kind}" if kind not in ("", "main") else agent,
        PHASES.get(row.get("phase", ""), row.get("phase", "")),
        str(row.get("tokens", 0)),
        _whole(row.get("rate")),
        _percent(row.get("cached")),
        row.get("key") or "-",
        (row.get("conversation") or "-")[:4],
        row.get("model") or "-",
    )


def chart(values: Sequence[float], cells: int = 24) -> str:
    """Return the newest values as a line of bars, the highest of them full."""
    shown = list(values)[-cells:]
    top = max(shown, default=0.0)
    return "".join(LEVELS[round(value / top * 8)] if top else LEVELS[0] for value in shown)


def _whole(value: float | None) -> str:
    return "-" if value is None else short_count(round(value))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.0f}%"
