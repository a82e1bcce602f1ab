"""Deployments as people see them: the table of `bouchet status`, and one in detail. Pure: no clock, no terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from bouchet_cli.client.deployments import DeploymentInfo
from bouchet_cli.client.http import Json

from .screen import MIN_WIDTH, StyledLine, clean, wrap
from .service import policy_note, service_facts, successor_note, time_left
from .tables import NOTE_INDENT, Column, age, duration, precise_duration, start_time, table, tokens

COLUMNS = (
    Column("NAME", flexible=True),
    Column("PHASE"),
    Column("NODE", rank=3),
    Column("WINDOW", rank=4),
    Column("AGE", rank=2),
    Column("STARTS", rank=1),
)
STATE_STYLE: Mapping[str, str] = {
    "ready": "green",
    "failed": "red",
    "queued": "yellow",
    "starting": "cyan",
    "draining": "magenta",
    "parked": "blue",
    "unreachable": "red",
}
LABEL_WIDTH = 11
NOT_OURS = "attached; not ours; never cancelled"
BAR = "█"
MAX_BAR, MIN_BAR = 40, 8
# the step's name, its duration, and the spaces around the bar
STEP_WIDTH = 17
DIALECT_TEXT: Mapping[str, str] = {"openai": "OpenAI's API", "anthropic": "Anthropic's API"}
RESULT_TEXT: Mapping[str, str] = {"ok": "ok", "failed": "FAILED", "not_tried": "skipped"}
STEP_STYLE: Mapping[str, str] = {
    "queue": "yellow",
    "image": "blue",
    "boot": "cyan",
    "load": "magenta",
    "compile": "green",
    "smoke": "white",
}
STEP_TEXT: Mapping[str, str] = {
    "queue": "waiting in the Slurm queue",
    "image": "node setup, image check",
    "boot": "container and vLLM start",
    "load": "loading weights",
    "compile": "compilation, CUDA graphs, warm-up",
    "smoke": "smoke test: chat, stream, tools",
}


def launched_by(deployment: DeploymentInfo) -> str:
    """Return which other installation launched a deployment that was adopted; empty for our own."""
    other = deployment.raw.get("launched_by")
    return f"launched by installation {other}, adopted" if other else ""


def state_style(deployment: DeploymentInfo) -> str:
    """Return the rich style of a deployment's state."""
    return STATE_STYLE.get(deployment.state, "dim" if deployment.phase == "ended" else "")


def status_lines(deployments: Sequence[DeploymentInfo], width: int, now: datetime) -> list[StyledLine]:
    """Return a table with a row and a note for each deployment."""
    rows = [_status_row(deployment, now) for deployment in deployments]
    notes = [_status_note(deployment, now) for deployment in deployments]
    return table(COLUMNS, rows, width, notes=notes, styles=[state_style(d) for d in deployments])


def outage_line(outage: Json, now: datetime) -> StyledLine:
    """Return the warning that the cluster does not answer, so what is shown is old."""
    since = duration((now - datetime.fromisoformat(outage["since"])).total_seconds())
    text = f"the cluster has not answered for {since}: {clean(outage['detail'])}; this status is from before"
    return StyledLine(text, "yellow")


def detail_lines(deployment: DeploymentInfo, width: int, now: datetime) -> list[StyledLine]:
    """Return the deployment, its job, and how long each step of the start took."""
    title = StyledLine(clean(deployment.alias), "bold").append("  ").append(deployment.state, state_style(deployment))
    lines = [title]
    for label, text in _facts(deployment, now):
        for number, part in enumerate(wrap(text, max(width, MIN_WIDTH) - len(NOTE_INDENT) - LABEL_WIDTH)):
            shown = "" if number else label
            lines.append(StyledLine(NOTE_INDENT).append(f"{shown:{LABEL_WIDTH}}", "dim").append(part))
    return [*lines, *startup_lines(_job(deployment).get("times") or {}, width)]


def startup_lines(times: Mapping[str, float], width: int) -> list[StyledLine]:
    """Return a bar for each step of the start, as long as its share of the time. times: seconds by step."""
    steps = {step: seconds for step, seconds in times.items() if step in STEP_TEXT}
    if not steps:
        return []
    whole = sum(steps.values())
    total = f"{precise_duration(times['ready'])} from launch to ready" if "ready" in times else "so far"
    lines = [StyledLine(NOTE_INDENT).append(f"{'start':{LABEL_WIDTH}}", "dim").append(total)]
    left = max(width, MIN_WIDTH) - len(NOTE_INDENT) - LABEL_WIDTH - STEP_WIDTH
    longest = max(map(len, STEP_TEXT.values()))
    space = min(MAX_BAR, left - longest if left >= longest + MIN_BAR else left)
    for step, seconds in steps.items():
        filled = round(space * seconds / whole) if whole else 0
        bar = (BAR * (filled or (1 if seconds else 0))).ljust(space)
        line = StyledLine(NOTE_INDENT + " " * LABEL_WIDTH).append(f"{step:8}")
        line.append(f"{precise_duration(seconds):>7} ").append(f"{bar} ", STEP_STYLE[step])
        lines.append(line.append(STEP_TEXT[step], "dim") if space + longest <= left else line)
    return lines


def smoke_test_text(smoke: Json) -> str:
    """Return the result of each check of a smoke test, with the message of those that are not ok."""
    parts = []
    for name, check in smoke.items():
        if isinstance(check, Mapping):
            message = f" ({check['message']})" if check["message"] and check["result"] != "ok" else ""
            parts.append(f"{name} {RESULT_TEXT.get(check['result'], check['result'])}{message}")
    return ", ".join(parts)


def _status_row(deployment: DeploymentInfo, now: datetime) -> tuple[str, ...]:
    job, ended = deployment.job, deployment.phase == "ended"
    state = f"{deployment.state}, stopping" if deployment.stopping and not ended else deployment.state
    running = duration((now - deployment.created_at).total_seconds())
    return (
        deployment.alias,
        state,
        job.node or "-",
        tokens(job.window),
        age(deployment.updated_at, now) if ended else running,
        start_time(job.start_estimate, now) if deployment.phase == "queued" else "-",
    )


def _status_note(deployment: DeploymentInfo, now: datetime) -> str:
    job = deployment.job
    parts = [f"id {deployment.id}", deployment.model, job.resources, f"job {job.slurm_id}" if job.slurm_id else ""]
    parts.append(NOT_OURS if deployment.attached else launched_by(deployment))
    left = time_left(_job(deployment), now) if deployment.phase == "ready" else None
    parts.append(f"{duration(left.total_seconds())} left" if left is not None else "")
    parts.append(policy_note(deployment))
    parts.append(successor_note(deployment, now))
    facts = ", ".join(part for part in parts if part)
    return f"{facts}: {deployment.explanation}" if deployment.explanation else facts


def _facts(deployment: DeploymentInfo, now: datetime) -> Iterator[tuple[str, str]]:
    job = _job(deployment)
    placement: Json = job.get("placement") or {}
    if deployment.explanation:
        yield ("ended" if deployment.phase == "ended" else "state"), deployment.explanation
    if job.get("note"):
        yield "note", job["note"]
    yield "id", f"{deployment.id}, served as {', '.join(deployment.names)}"
    if owner := launched_by(deployment):
        yield "owner", owner
    if deployment.attached:
        yield "server", _server_text(deployment, job)
    if placement:
        share = f"{placement['cpus']} CPUs and {placement['memory_gib']} GiB per node"
        yield "placement", f"{deployment.job.resources}, {share}; {placement.get('why') or ''}".rstrip("; ")
    if job.get("site_message"):
        yield "site", job["site_message"]
    yield from _job_facts(deployment, job, placement, now)
    yield from service_facts(deployment, now)
    if job.get("image"):
        yield "software", _software_text(job)
    if job.get("smoke"):
        yield "checks", smoke_test_text(job["smoke"])
    if job.get("gpus"):
        yield "gpus", f"{len(job['gpus'])} x {job['gpus'][0]} per node, driver {job.get('driver') or '?'}"


def _job_facts(deployment: DeploymentInfo, job: Json, placement: Json, now: datetime) -> Iterator[tuple[str, str]]:
    if job.get("slurm_id"):
        node = f" on {job['node']}" if job.get("node") else ""
        code = f", exit code {job['exit_code']}" if job.get("exit_code") else ""
        yield "job", f"{job['slurm_id']}{node}, {job.get('slurm_state') or 'submitted'}{code}"
    if deployment.phase == "queued":
        estimate = deployment.job.start_estimate
        yield "starts", start_time(estimate, now) if estimate else "no estimate from Slurm yet"
    if job.get("window"):
        memory = (job.get("memory") or {}).get("note")
        yield "window", f"{tokens(job['window'])} tokens" + (f"; {memory}" if memory else "")
    left = time_left(job, now)
    if left is not None and deployment.phase in ("starting", "ready"):
        yield "ends", f"in {duration(left.total_seconds())}, at the end of its walltime"


def _server_text(deployment: DeploymentInfo, job: Json) -> str:
    """Return where an attached server is, what it speaks, and that it is not ours."""
    attached = deployment.attached
    engine = f"vLLM {job['vllm_version']}, " if job.get("vllm_version") else ""
    dialects = " and ".join(DIALECT_TEXT.get(one, one) for one in attached.get("dialects") or ())
    key = "with a key" if attached.get("has_key") else "without a key"
    return f"{job.get('node')}:{job.get('port')}, {engine}speaks {dialects or '?'}, {key}; {NOT_OURS}"


def _software_text(job: Json) -> str:
    digest = f" (sha256 {job['image_sha256'][:12]})" if job.get("image_sha256") else ""
    revision = f", model revision {job['model_revision'][:12]}" if job.get("model_revision") else ""
    torch = f", torch {job['torch_version']}" if job.get("torch_version") else ""
    return f"{job['image']}{digest}, vLLM {job.get('vllm_version') or '?'}{torch}{revision}"


def _job(deployment: DeploymentInfo) -> Json:
    jobs: Sequence[Json] = deployment.raw.get("jobs") or ({},)
    return jobs[-1]
