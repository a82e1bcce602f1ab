"""Command lines of Slurm's programs, and the time that each may take. Nothing is run here.

The gateway sets SLURM_TIME_FORMAT=%s, so times are printed as seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from bouchet_core.deployments import Placement
from bouchet_core.values import format_duration

# squeue, sacct, scontrol and sinfo
QUERY_TIMEOUT_S = 20.0
SBATCH_TIMEOUT_S = 30.0
SCANCEL_TIMEOUT_S = 30.0

# the name is the last field, because it is the only one that may hold the separator
QUEUE_FORMAT = "%M|%A|%T|%r|%S|%V|%B|%N|%P|%j"
ACCOUNTING_FIELDS = "JobIDRaw,State,ExitCode,NodeList,UID,JobName"
# Slurm cuts each field at its width
USAGE_FORMAT = "state:.20,partition:.60,tres-alloc:.300"
USAGE_STATES = "PENDING,RUNNING,SUSPENDED,CONFIGURING"
# a job gets a signal this long before its walltime ends, so that it can finish open streams
WARNING_S = 120
# ... a short one later: Slurm may send it up to a minute early
SHORT_WALLTIME_S, SHORT_WARNING_S = 900, 60


def warning_s(walltime_s: int) -> int:
    """Return how long before the end of its walltime a job gets the signal, in seconds."""
    return SHORT_WARNING_S if walltime_s < SHORT_WALLTIME_S else WARNING_S


def sbatch_argv(
    placement: Placement, name: str, output: str, script: str, arguments: Sequence[str], *, begin_in_s: int = 0
) -> list[str]:
    """Return `sbatch --parsable`, which prints the job's id and nothing else. output may hold %j.

    begin_in_s: not before that many seconds from now, by Slurm's own clock; 0: as soon as possible.
    """
    return [
        "sbatch",
        "--parsable",
        *_resources(placement),
        f"--job-name={name}",
        f"--output={output}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{warning_s(placement.walltime_s)}",
        *([f"--begin=now+{begin_in_s}"] if begin_in_s > 0 else []),
        script,
        *arguments,
    ]


def sbatch_test_only_argv(placement: Placement) -> list[str]:
    """Return `sbatch --test-only`, which prints an estimated start and submits nothing. The script goes to stdin."""
    return ["sbatch", "--test-only", *_resources(placement)]


def _resources(p: Placement) -> list[str]:
    options = [f"--partition={p.partition}", f"--nodes={p.nodes}", "--ntasks-per-node=1"]
    if not p.whole_node:
        # memory per node, because --mem-per-gpu does not work on some sites
        options += [f"--cpus-per-task={p.cpus}", f"--mem={p.memory_gib}G"]
    options += [f"--time={format_duration(p.walltime_s)}", *_gpu_options(p)]
    optional = {"account": p.account, "qos": p.qos, "constraint": p.constraint}
    return [*options, *(f"--{option}={value}" for option, value in optional.items() if value)]


def _gpu_options(p: Placement) -> list[str]:
    """Return the request for GPUs in the form that the site's Slurm accepts; one task runs on each node."""
    if not p.gpus or p.gpu_request == "none":
        return []
    kind = f"{p.gpu_type}:" if p.gpu_type_requested and p.gpu_type else ""
    per_node = p.gpus // p.nodes
    if p.gpu_request == "gres":
        return [f"--gres=gpu:{kind}{per_node}"]
    if p.gpu_request == "gpus-per-task":
        return [f"--gpus-per-task={kind}{per_node}"]
    if p.gpu_request == "gpus-per-node" or p.nodes > 1:
        return [f"--gpus-per-node={kind}{per_node}"]
    return [f"--gpus={kind}{p.gpus}"]


def squeue_argv() -> list[str]:
    """Return the query for all of the user's jobs, also those of other programs, in one call."""
    return ["squeue", "--me", "--noheader", f"--format={QUEUE_FORMAT}"]


def usage_argv() -> list[str]:
    """Return the query for the resources that the user's jobs request or hold, by partition."""
    return ["squeue", "--me", "--noheader", f"--states={USAGE_STATES}", f"--Format={USAGE_FORMAT}"]


def sacct_argv(job_ids: Sequence[int]) -> list[str]:
    """Return the query for the accounting rows of those jobs."""
    return _sacct(f"--jobs={','.join(str(i) for i in job_ids)}")


def sacct_by_name_argv(name: str, since: datetime) -> list[str]:
    """Return the query for the accounting rows of jobs with that name, ended ones too.

    since: aware. One day is subtracted, because the cluster's time zone may be behind UTC.
    """
    day = since.astimezone(UTC) - timedelta(days=1)
    return _sacct(f"--name={name}", f"--starttime={day:%Y-%m-%d}")


def _sacct(*filters: str) -> list[str]:
    return ["sacct", "--allocations", "--parsable2", "--noheader", f"--format={ACCOUNTING_FIELDS}", *filters]


def show_job_argv(job_id: int) -> list[str]:
    """Return the query for a job in slurmctld's memory, which usually keeps it for five minutes after its end."""
    return ["scontrol", "--oneliner", "show", "job", str(job_id)]


def show_node_argv(node: str) -> list[str]:
    """Return the query for a node, by its name; Slurm fails for one that it does not know."""
    return ["scontrol", "--oneliner", "show", "node", node]


def show_reservations_argv() -> list[str]:
    """Return the query for reservations, of which those for maintenance keep jobs from starting."""
    return ["scontrol", "--oneliner", "show", "reservations"]


def scancel_argv(job_id: int) -> list[str]:
    """Return the command that cancels a job: by id, never by name, because other users may use the same name."""
    return ["scancel", str(job_id)]


def terminate_argv(job_id: int) -> list[str]:
    """Return the command that sends SIGTERM to the batch script alone, so that vLLM can finish open requests."""
    return ["scancel", "--batch", "--signal=TERM", str(job_id)]
