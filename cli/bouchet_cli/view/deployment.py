"""One deployment in full: `bouchet status NAME`. Pure: the width and the time are handed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from bouchet_cli.client.records import Deployment, Json

from .line import Line, clean, wrapped
from .tables import MIN_WIDTH, NOTE_INDENT, PHASE_STYLE, duration, starts, tokens

LABEL = 9
BAR = "█"
LONGEST_BAR, SHORTEST_BAR = 40, 8
# the step's name, its seconds, and the gaps round the bar
STEP_COLUMNS = 17
CHECK_WORDS: Mapping[str, str] = {"ok": "ok", "failed": "FAILED", "not_tried": "not tried"}
STEP_STYLE: Mapping[str, str] = {
    "queue": "yellow",
    "image": "blue",
    "boot": "cyan",
    "load": "magenta",
    "compile": "green",
    "smoke": "white",
}
STEP_WORDS: Mapping[str, str] = {
    "queue": "waited for Slurm",
    "image": "set up the node, checked the image",
    "boot": "started container and vLLM",
    "load": "loaded the weights",
    "compile": "compiled, captured graphs, warmed up",
    "smoke": "tried chat, stream and tools",
}


def detail_lines(deployment: Deployment, width: int, now: datetime) -> list[Line]:
    """The deployment, its job, and where the time of its start went."""
    standing = deployment.standing
    lines = [Line(clean(deployment.alias), "bold").append("  ").append(standing, PHASE_STYLE.get(deployment.phase, ""))]
    for label, text in _facts(deployment, now):
        for number, part in enumerate(wrapped(text, max(width, MIN_WIDTH) - len(NOTE_INDENT) - LABEL)):
            lines.append(Line(NOTE_INDENT).append(f"{'' if number else label:{LABEL}}", "dim").append(part))
    return [*lines, *time_lines(_job(deployment).get("times") or {}, width)]


def time_lines(times: Mapping[str, float], width: int) -> list[Line]:
    """A bar for each step of the start, as long as its share of the time."""
    steps = {step: seconds for step, seconds in times.items() if step in STEP_WORDS}
    if not steps:
        return []
    whole = sum(steps.values())
    total = f"{spent(times['ready'])} from submission to the first answer" if "ready" in times else "so far"
    lines = [Line(NOTE_INDENT).append(f"{'start':{LABEL}}", "dim").append(total)]
    left = max(width, MIN_WIDTH) - len(NOTE_INDENT) - LABEL - STEP_COLUMNS
    longest = max(map(len, STEP_WORDS.values()))
    room = min(LONGEST_BAR, left - longest if left >= longest + SHORTEST_BAR else left)
    for step, seconds in steps.items():
        filled = round(room * seconds / whole) if whole else 0
        bar = (BAR * (filled or (1 if seconds else 0))).ljust(room)
        line = Line(NOTE_INDENT + " " * LABEL).append(f"{step:8}").append(f"{spent(seconds):>7} ")
        line.append(f"{bar} ", STEP_STYLE[step])
        lines.append(line.append(STEP_WORDS[step], "dim") if room + longest <= left else line)
    return lines


def spent(seconds: float) -> str:
    """0.4s, 42s, 2m05s, 3h05m."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    return f"{int(seconds) // 60}m{int(seconds) % 60:02}s" if 60 <= seconds < 3600 else duration(seconds)


def _facts(deployment: Deployment, now: datetime) -> Iterator[tuple[str, str]]:
    job = _job(deployment)
    placed: Json = job.get("placement") or {}
    if deployment.words:
        yield "because", deployment.words
    if job.get("note"):
        yield "note", job["note"]
    yield "id", f"{deployment.id}, answers to {', '.join(deployment.names)}"
    if placed:
        share = f"{placed['cpus']} CPUs and {placed['memory_gib']} GiB a node"
        yield "placed", f"{deployment.job.where}, {share}; {placed.get('why') or ''}".rstrip("; ")
    yield from _run_facts(deployment, job, placed, now)
    if job.get("image"):
        digest = f" (sha256 {job['image_sha256'][:12]})" if job.get("image_sha256") else ""
        revision = f", model revision {job['model_revision'][:12]}" if job.get("model_revision") else ""
        torch = f", torch {job['torch_version']}" if job.get("torch_version") else ""
        yield "software", f"{job['image']}{digest}, vLLM {job.get('vllm_version') or '?'}{torch}{revision}"
    if job.get("smoke"):
        yield "tried", tried_in_words(job["smoke"])
    if job.get("gpus"):
        yield "gpus", f"{len(job['gpus'])} x {job['gpus'][0]} on a node, driver {job.get('driver') or '?'}"


def tried_in_words(smoke: Json) -> str:
    """What its smoke test found, check by check; what is well needs no words."""
    parts = []
    for name, check in smoke.items():
        if isinstance(check, Mapping):
            said = f" ({check['said']})" if check["message"] and check["result"] != "ok" else ""
            parts.append(f"{name} {CHECK_WORDS.get(check['result'], check['result'])}{said}")
    return ", ".join(parts)


def _run_facts(deployment: Deployment, job: Json, placed: Json, now: datetime) -> Iterator[tuple[str, str]]:
    if job.get("slurm_id"):
        where = f" on {job['node']}" if job.get("node") else ""
        code = f", exit code {job['exit_code']}" if job.get("exit_code") else ""
        yield "job", f"{job['slurm_id']}{where}, {job.get('slurm_state') or 'submitted'}{code}"
    if deployment.phase == "queued":
        yield "starts", starts(deployment.job.start_estimate, now).replace("-", "Slurm names no time yet")
    if job.get("window"):
        room = (job.get("memory") or {}).get("note")
        yield "window", f"{tokens(job['window'])} tokens" + (f"; {room}" if room else "")
    began = (job.get("since") or {}).get("starting")
    if began and placed and deployment.phase in ("starting", "ready"):
        left = datetime.fromisoformat(began) + timedelta(seconds=placed["walltime_s"]) - now
        yield "ends", f"in {duration(left.total_seconds())}, when its walltime is used up"


def _job(deployment: Deployment) -> Json:
    jobs: Sequence[Json] = deployment.raw.get("jobs") or ({},)
    return jobs[-1]
