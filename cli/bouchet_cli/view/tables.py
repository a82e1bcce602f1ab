"""Text for people: columns, ages, sizes. Pure: the width and the time are handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from bouchet_cli.client.records import Deployment, Json, Tunnel

from .line import Line, cells, clean, fitted, wrapped

GAP = "  "
NOTE_INDENT = "  "
# from here on a description has room in its own column
WIDE = 110
MIN_WIDTH = 40
PHASE_STYLE: Mapping[str, str] = {
    "ready": "green",
    "ended": "dim",
    "queued": "yellow",
    "starting": "cyan",
    "draining": "magenta",
}
TUNNEL_STYLE: Mapping[str, str] = {"up": "green", "needs_human": "bold yellow", "refused": "red", "down": "red"}
TUNNEL_WORDS: Mapping[str, str] = {
    "up": "up",
    "down": "down, trying again",
    "connecting": "connecting",
    "needs_human": "waits for you: `bouchet tunnel`",
    "refused": "refused",
}


def duration(seconds: float) -> str:
    """42s, 12m, 3h05m, 2d04h."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < 60:
        return f"{whole}s"
    if hours < 1:
        return f"{minutes}m"
    return f"{hours}h{minutes % 60:02}m" if days < 1 else f"{days}d{hours % 24:02}h"


def tokens(count: int | None) -> str:
    """A window in k tokens of 1024."""
    if count is None:
        return "-"
    return f"{count // 1024}k" if count >= 1024 else str(count)


def starts(estimate: datetime | None, now: datetime) -> str:
    """When a queued job will start, as far as Slurm can tell."""
    if estimate is None:
        return "-"
    left = (estimate - now).total_seconds()
    return f"in {duration(left)}" if left > 0 else "soon"


def status_lines(deployments: Sequence[Deployment], width: int, now: datetime) -> list[Line]:
    """A row and a note for each deployment."""
    head = ("NAME", "PHASE", "NODE", "WINDOW", "AGE", "STARTS")
    rows = [(*_status_row(d, now),) for d in deployments]
    notes = [_status_note(d) for d in deployments]
    return table(head, rows, width, notes=notes, styles=[PHASE_STYLE.get(d.phase, "") for d in deployments])


def tunnel_line(tunnel: Tunnel, now: datetime) -> Line:
    """The SSH connection in one line."""
    line = Line(f"tunnel to {clean(tunnel.host)}: ")
    line.append(TUNNEL_WORDS.get(tunnel.state, tunnel.state), TUNNEL_STYLE.get(tunnel.state, ""))
    line.append(f" for {duration((now - tunnel.since).total_seconds())}" if tunnel.state == "up" else "")
    return line.append(f" ({clean(tunnel.detail)})") if tunnel.detail else line


def unasked_line(told: Json, now: datetime) -> Line:
    """What the cluster did not answer, so that nobody takes what is shown for news."""
    age = duration((now - datetime.fromisoformat(told["since"])).total_seconds())
    words = f"the cluster has not answered for {age}: {clean(told['detail'])}; what is shown is from before"
    return Line(words, "yellow")


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    notes: Sequence[str] = (),
    styles: Sequence[str] = (),
    right: Sequence[int] = (),
    styled: int = 1,
) -> list[Line]:
    """Columns no wider than `width`; a note stands below its row. `styles` colour the column `styled`, row by row."""
    widths = _widths([head, *rows], max(width, MIN_WIDTH))
    lines = [_row(head, widths, right, ["bold"] * len(head))]
    for index, row in enumerate(rows):
        dressed = [styles[index] if styles and column == styled else "" for column in range(len(row))]
        lines.append(_row(row, widths, right, dressed))
        lines += [Line(NOTE_INDENT + part, "dim") for part in _note(notes[index] if notes else "", width)]
    return lines


def _widths(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Each column as wide as its widest cell; what is too much is taken from the widest columns."""
    widths = [max(cells(clean(cell)) for cell in column) for column in zip(*rows, strict=True)]
    while sum(widths) + len(GAP) * (len(widths) - 1) > width:
        widths[widths.index(max(widths))] -= 1
    return widths


def _row(row: Sequence[str], widths: Sequence[int], right: Sequence[int], styles: Sequence[str]) -> Line:
    line = Line()
    last = max((column for column, cell in enumerate(row) if clean(cell).strip()), default=0)
    for column in range(last + 1):
        text = fitted(row[column], widths[column], right=column in right)
        line.append(text.rstrip() if column == last else text + GAP, styles[column])
    return line


def _note(text: str, width: int) -> list[str]:
    return wrapped(text, max(width, MIN_WIDTH) - len(NOTE_INDENT))


def _status_row(deployment: Deployment, now: datetime) -> tuple[str, ...]:
    job, over = deployment.job, deployment.phase == "ended"
    age = duration((now - (deployment.updated_at if over else deployment.created_at)).total_seconds())
    return (
        deployment.alias,
        f"{deployment.standing}, ending" if deployment.stopping and not over else deployment.standing,
        job.node or "-",
        tokens(job.window),
        f"{age} ago" if over else age,
        starts(job.start_estimate, now) if deployment.phase == "queued" else "-",
    )


def _status_note(deployment: Deployment) -> str:
    job = deployment.job
    parts = [f"id {deployment.id}", deployment.model, job.where, f"job {job.slurm_id}" if job.slurm_id else ""]
    facts = ", ".join(part for part in parts if part)
    return f"{facts}: {deployment.words}" if deployment.words else facts
