"""Why a job ended, for people: Slurm's state, the job's end file, vLLM's last lines, and what to do next. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from bouchet_core.deployments import Deployment, Ending, Job
from bouchet_core.values import format_duration

from bouchet_worker.slurm.states import STATES, State

from .observation import EndFile, JobStatus
from .startup import READY, STEPS
from .vllm_errors import advice_for_cause, select_cause

# {fields} are filled in by `_fields`
SENTENCES: Mapping[State, str] = {
    State.BOOT_FAIL: "{node} failed to boot; launch again",
    State.CANCELLED: "cancelled by {who}",
    State.COMPLETED: "the job ended by itself; {logs}",
    State.DEADLINE: "the job could not finish before its deadline",
    State.FAILED: "the job failed (exit code {exit_code}); {logs}",
    State.LAUNCH_FAILED: "Slurm could not start the job on {node}; launch again",
    State.NODE_FAIL: "{node} failed; launch again",
    State.OUT_OF_MEMORY: "the job ran out of host memory ({memory} GiB per node); more --gpus give it more memory",
    State.PREEMPTED: "preempted by a higher-priority job on {partition}; launch again, or use a partition without "
    "preemption",
    State.RECONFIG_FAIL: "{node} could not be reconfigured for the job; launch again",
    State.REVOKED: "another cluster of the federation runs the job",
    State.TIMEOUT: "the job used up its walltime of {walltime}; launch again, with a longer --time if the partition "
    "allows it",
}
# exit codes without an end file: the batch script's UNWRITABLE status, Slurm's code for a job that a node refused to
# start (a script that runs writes a record), and for a log file that Slurm could not open
EXIT_CODES: Mapping[str, str] = {
    "73:0": "the job could not write its files in {folder} from {node} (disk full, quota exceeded or no response): "
    "free some space there and launch again; `bouchet doctor` shows the free space",
    "1:0": "the job failed (exit code 1:0) and its script left no record, as when {node} cannot start a job that Slurm "
    "has just put back into the queue; {logs}",
    "0:53": "Slurm could not open the job's log in {folder} on {node}: check that the folder exists and has free "
    "space, then launch again; `bouchet doctor` checks both",
}
# Slurm knows the cause itself; what the job wrote at that time is only the consequence
_CAUSE_KNOWN_BY_SLURM = frozenset(
    {State.OUT_OF_MEMORY, State.NODE_FAIL, State.PREEMPTED, State.BOOT_FAIL, State.LAUNCH_FAILED, State.RECONFIG_FAIL}
)
_END_FILE_ENDINGS: Mapping[str, Ending] = {
    "walltime": Ending.TIMED_OUT,
    "vllm_exited": Ending.FAILED,
    "refused": Ending.FAILED,
}
# 128 + SIGKILL
KILLED = 137
FORGOTTEN = "Slurm no longer knows job {slurm_id}, and the job left no exit record; {logs}"
FOLLOWS = "another job follows"
_PROCESS_KILLED = "the process was killed, most likely for its use of host memory: more --gpus give it more memory"


def classify_ending(
    record: Deployment, job: Job, status: JobStatus | None, end_file: EndFile | None
) -> tuple[Ending, str]:
    """Return how the deployment ended and a sentence about it. status is None when Slurm has forgotten the job."""
    fields = _fields(record, job, status)
    if status is not None and status.state in _CAUSE_KNOWN_BY_SLURM:
        return STATES[status.state].ending or Ending.FAILED, _sentence(record, status.state).format_map(fields)
    if record.stop_requested_at is not None:
        if job.retired_because:
            return Ending.COMPLETED, job.retired_because
        return Ending.CANCELLED, "cancelled on request"
    if end_file is not None and end_file.kind == "idle":
        starter = "the next request" if record.stays else f"`bouchet launch {record.model}`"
        return Ending.IDLE, f"{end_file.sentence}; {starter} starts it again{_warm_start(job)}"
    if end_file is not None and end_file.kind in _END_FILE_ENDINGS:
        return _END_FILE_ENDINGS[end_file.kind], _with_cause(end_file)
    if status is None:
        return Ending.FAILED, FORGOTTEN.format_map(fields)
    by_code = EXIT_CODES.get(status.exit_code or "") if status.state is State.FAILED and end_file is None else None
    return STATES[status.state].ending or Ending.FAILED, (by_code or _sentence(record, status.state)).format_map(fields)


def _sentence(record: Deployment, state: State) -> str:
    """Return the template of that state. Whoever keeps a deployment need not launch it again."""
    before, again, _ = SENTENCES[state].partition("; launch again")
    return f"{before}; {FOLLOWS}" if again and record.stays else SENTENCES[state]


def _warm_start(job: Job) -> str:
    """Return how long this start took without the queue: the next one finds its kernels compiled and is no slower."""
    seconds = sum(job.times.get(step, 0.0) for step in STEPS if step != "queue") if READY in job.times else 0.0
    return f" in about {max(1, round(seconds))} s (warm)" if seconds else ""


def _with_cause(end_file: EndFile) -> str:
    line = select_cause(end_file.tail)
    advice = advice_for_cause(line)
    if not line and end_file.exit_status == KILLED:
        advice = _PROCESS_KILLED
    return ": ".join(part for part in (end_file.sentence, line) if part) + (f"; {advice}" if advice else "")


def _fields(record: Deployment, job: Job, status: JobStatus | None) -> dict[str, object]:
    placement = job.placement
    node = (status and status.node) or job.node
    return {
        "node": f"node {node}" if node else "the job's node",
        "who": (status and status.cancelled_by) or "an unknown user, not through bouchet-llm",
        "exit_code": (status and status.exit_code) or "unknown",
        "logs": f"see `bouchet logs {record.id}`",
        "folder": posixpath.dirname(job.log) if job.log else "the folder of its logs",
        "memory": placement.memory_gib if placement else "?",
        "partition": placement.partition if placement else "its partition",
        "walltime": format_duration(placement.walltime_s) if placement else "?",
        "slurm_id": job.slurm_id,
    }
