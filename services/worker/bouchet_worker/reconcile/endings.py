"""How an ended job ended, for people: Slurm's word, the job's own note, and what to do next. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from bouchet_core.deployments import Deployment, Ending, Job
from bouchet_core.durations import format_duration

from bouchet_worker.slurm.states import STATES, State

from .observation import EndNote, SlurmSays
from .startup_times import READY, STEPS
from .vllm_errors import advice_for_cause, cause_of

# {fields} are filled in `_facts`
SENTENCES: Mapping[State, str] = {
    State.BOOT_FAIL: "the node {node} did not boot; launch again",
    State.CANCELLED: "cancelled by {who}",
    State.COMPLETED: "the job ended by itself; {logs}",
    State.DEADLINE: "it could not end before its deadline",
    State.FAILED: "the job failed (exit code {exit_code}); {logs}",
    State.LAUNCH_FAILED: "Slurm could not start it on {node}; launch again",
    State.NODE_FAIL: "the node {node} failed; launch again",
    State.OUT_OF_MEMORY: "it ran out of host memory ({memory} GiB a node); more --gpus bring more memory",
    State.PREEMPTED: "the owners of {partition} took the node back; launch again, or on a partition without preemption",
    State.RECONFIG_FAIL: "the node {node} could not be set up for it; launch again",
    State.REVOKED: "another cluster of the federation took the job",
    State.TIMEOUT: "its walltime of {walltime} is used up; launch again, with a longer --time if the partition allows",
}
# how the batch script ended where it could leave no note, as Slurm prints it: its UNWRITABLE; Slurm's own word for a
# log that it could not open
EXITS: Mapping[str, str] = {
    "73:0": "its files in {folder} could not be written from {node} (disk full, quota used up, or no answer): "
    "make room there, then launch again; `bouchet doctor` shows how much is free",
    "0:53": "Slurm could not open its log in {folder} on {node}: see that the folder is there and not full, "
    "then launch again; `bouchet doctor` looks",
}
# Slurm saw the cause itself; what the job wrote at the time is only the consequence
_SLURM_KNOWS_BEST = frozenset(
    {State.OUT_OF_MEMORY, State.NODE_FAIL, State.PREEMPTED, State.BOOT_FAIL, State.LAUNCH_FAILED, State.RECONFIG_FAIL}
)
_NOTE_ENDINGS: Mapping[str, Ending] = {
    "walltime": Ending.TIMED_OUT,
    "vllm_exited": Ending.FAILED,
    "refused": Ending.FAILED,
}
# 128 + SIGKILL
KILLED = 137
GONE = "Slurm no longer knows job {slurm_id}, and it left no word why it ended; {logs}"


def ending_of(record: Deployment, job: Job, slurm: SlurmSays | None, note: EndNote | None) -> tuple[Ending, str]:
    """Ending and sentence. slurm is None when Slurm has forgotten the job."""
    facts = _facts(record, job, slurm)
    if slurm is not None and slurm.state in _SLURM_KNOWS_BEST:
        return STATES[slurm.state].ending or Ending.FAILED, SENTENCES[slurm.state].format_map(facts)
    if record.stop_requested_at is not None:
        return Ending.CANCELLED, "cancelled as asked"
    if note is not None and note.kind == "idle":
        return Ending.IDLE, f"{note.sentence}; `bouchet launch {record.model}` brings it back{_how_soon(job)}"
    if note is not None and note.kind in _NOTE_ENDINGS:
        return _NOTE_ENDINGS[note.kind], _with_tail(note)
    if slurm is None:
        return Ending.FAILED, GONE.format_map(facts)
    sentence = EXITS.get(slurm.exit_code or "") if slurm.state is State.FAILED and note is None else None
    return STATES[slurm.state].ending or Ending.FAILED, (sentence or SENTENCES[slurm.state]).format_map(facts)


def _how_soon(job: Job) -> str:
    """As this start took, but for the queue: the next one finds its kernels compiled and is no slower."""
    took = sum(job.times.get(step, 0.0) for step in STEPS if step != "queue") if READY in job.times else 0.0
    return f" in about {max(1, round(took))} s (warm)" if took else ""


def _with_tail(note: EndNote) -> str:
    line = cause_of(note.tail)
    advice = advice_for_cause(line)
    if not line and note.exit_status == KILLED:
        advice = "something killed it, most likely for its use of the node's memory: more --gpus bring more memory"
    return ": ".join(part for part in (note.sentence, line) if part) + (f"; {advice}" if advice else "")


def _facts(record: Deployment, job: Job, slurm: SlurmSays | None) -> dict[str, object]:
    placement = job.placement
    return {
        "node": (slurm and slurm.node) or job.node or "that it ran on",
        "who": (slurm and slurm.ended_by) or "somebody (with scancel), not through bouchet-llm",
        "exit_code": (slurm and slurm.exit_code) or "unknown",
        "logs": f"`bouchet logs {record.id}` shows its last words",
        "folder": posixpath.dirname(job.log) if job.log else "the folder of its logs",
        "memory": placement.memory_gib if placement else "?",
        "partition": placement.partition if placement else "the partition",
        "walltime": format_duration(placement.walltime_s) if placement else "?",
        "slurm_id": job.slurm_id,
    }
