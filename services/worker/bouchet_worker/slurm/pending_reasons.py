"""What Slurm's pending reasons mean (squeue's manual, JOB REASON CODES), and what would start sooner.

A reason that is not in these tables is shown as Slurm prints it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bouchet_core.deployments import Placement

REASONS: Mapping[str, str] = {
    "AccountNotAllowed": "the partition does not accept this account; cancel it and launch with another --account",
    "AccountingPolicy": "a limit of your account is reached",
    "BadConstraints": "no node satisfies the constraints; cancel it and launch without --constraint",
    "BeginTime": "its earliest start time is in the future (after a requeue Slurm waits about two minutes)",
    "Cleaning": "the nodes are being cleaned up after its previous run",
    "DeadLine": "it cannot end before its deadline",
    "Dependency": "waiting for another job to finish",
    "DependencyNeverSatisfied": "the job that it depends on failed, so it will never start; cancel it",
    "FedJobLock": "waiting for the other clusters of the federation",
    "FrontEndDown": "no front end node is up; contact the site's support",
    "InactiveLimit": "the system's inactivity limit was reached",
    "InvalidAccount": "the account is invalid; cancel it and launch with another --account",
    "InvalidQOS": "the QOS is invalid; cancel it and launch with another --qos",
    "JobArrayTaskLimit": "the limit of running tasks of its job array is reached",
    "JobHeldAdmin": "held by an administrator; contact the site's support",
    "JobHeldUser": "held by you; `scontrol release JOB` releases it",
    "JobHoldMaxRequeue": "it was requeued too often and is held; cancel it and launch again",
    "JobLaunchFailure": "its node could not start it, and Slurm holds it",
    "Licenses": "waiting for a license",
    "MaxMemPerLimit": "it requests more memory per CPU or node than the partition allows",
    "MaxRequeue": "it was requeued too often and is held; cancel it and launch again",
    "NodeDown": "a node that it requires is down",
    "NonZeroExitCode": "its previous run failed",
    "None": "waiting for Slurm's scheduler",
    "OutOfMemory": "it ran out of memory",
    "PartitionConfig": "it requests more than the partition has",
    "PartitionDown": "the partition is down; contact the site's support",
    "PartitionInactive": "the partition is inactive; contact the site's support",
    "PartitionNodeLimit": "it requests more nodes than the partition has",
    "PartitionTimeLimit": "its walltime is longer than the partition allows; launch with a shorter --time",
    "Priority": "other jobs are ahead of it in the queue",
    "Prolog": "the node is being prepared",
    "QOSJobLimit": "the job limit of the QOS is reached",
    "QOSNotAllowed": "the partition does not accept this QOS; cancel it and launch with another --qos",
    "QOSResourceLimit": "a limit of the QOS is reached",
    "QOSTimeLimit": "the time limit of the QOS is reached",
    "QOSUsageThreshold": "the usage threshold of the QOS is exceeded",
    "ReqNodeNotAvail": "nodes that it requires are down, drained or reserved",
    "Reservation": "waiting for its reservation",
    "ReservationDeleted": "its reservation was deleted; cancel it and launch again",
    "Reserved": "the nodes are reserved for other jobs",
    "Resources": "it starts as soon as enough GPUs, CPUs and memory are free",
    "SchedDefer": "Slurm has deferred scheduling",
    "SystemFailure": "Slurm, the file system or the network failed; contact the site's support",
    "TimeLimit": "its time limit is used up",
}

MAINTENANCE = "it would overlap a maintenance window: it starts afterwards, or sooner with a shorter --time"
_RELEASED = "that {whose} may use at a time is reached; it starts when some"
_LESS = "and will never start; cancel it and launch with less"

# Sentences that Slurm prints instead of a reason code, with spaces or underscores.
_SENTENCES: tuple[tuple[str, str], ...] = (
    (r"^ReqNodeNotAvail.*maintenance", MAINTENANCE),
    (r"^ReqNodeNotAvail", REASONS["ReqNodeNotAvail"]),
    (r"^Nodes[ _]required[ _]for[ _]job", "nodes that it requires are down, drained or kept for higher priority"),
    (r"launch[ _]failed[ _]requeued", "its node could not start it, and Slurm holds it; cancel it and launch again"),
    (
        r"user[ _]env(ironment)?[ _]retrieval[ _]failed",
        "its node could not read your login environment, and Slurm holds it; cancel it, make your shell's start-up "
        "files quick and silent, and launch again",
    ),
    (
        r"(prolog|epilog)[ _]fail\w*.*(requeued|held)",
        "its node could not be prepared, and Slurm holds it; cancel it and launch again",
    ),
    (r"requeued[ _](in[ _])?held", "Slurm requeued it and holds it; `scontrol release JOB` releases it"),
)

# Limits have names like QOSMax...PerUser, AssocGrp..., Max...PerAccount. The first match wins.
_LIMITS: tuple[tuple[str, str], ...] = (
    (r"^QOSMin", f"it requests less than the QOS accepts {_LESS.replace('less', 'more')}"),
    (r"Wall\w*PerJob", "its walltime is longer than the limit allows; cancel it and launch with a shorter --time"),
    (r"(GRES|TRES|[Gg]res)\w*Per(Job|Node)", f"it requests more GPUs than the limit allows one job {_LESS}"),
    (r"Per(Job|Node)", f"it requests more than the limit allows one job {_LESS}"),
    (r"Submit", "the limit of submitted jobs is reached; it continues when one ends"),
    (r"JobsPer|JobsLimit|JobsPU|JobsAccrue", "{whose_run} as many jobs as the limit allows; it starts when one ends"),
    (r"Wall|Minutes|Mins", "the limit of computing time of {whose} is reached"),
    (r"GRES|TRES|[Gg]res|gpu", f"the limit of GPUs {_RELEASED} are free"),
    (r"CPU|[Cc]pu|Core", f"the limit of CPUs {_RELEASED} are free"),
    (r"Mem|MEM", f"the limit of memory {_RELEASED} is free"),
    (r"Node", f"the limit of nodes {_RELEASED} are free"),
    (r"", "a limit of {whose} is reached"),
)
_BACKFILL = "a shorter --time may start sooner (backfill); `--partition auto` picks the earliest start"


def describe_pending_reason(reason: str) -> str:
    """Return what a pending reason means, followed by Slurm's own code."""
    code = reason.strip().strip("()")
    if not code:
        return "waiting in the queue"
    return REASONS[code] if code == "None" else f"{_describe(code)} ({code})"


def suggest_earlier_start(reason: str, placement: Placement | None) -> str:
    """Return what would start sooner, empty where nothing is known to."""
    code = reason.strip().strip("()")
    if placement is None:
        return ""
    if code in ("Priority", "Resources"):
        return _BACKFILL
    if not _is_limit(code) or re.search(r"Per(Job|Node)|^QOSMin|Mins|Minutes", code):
        return ""
    if _is_group_limit(code):
        return "it is a limit of your group: another --account or --partition may start sooner"
    fewer = "fewer --gpus, " if re.search(r"GRES|TRES|[Gg]res|gpu", code) and placement.gpus > 1 else ""
    return f"to start sooner: {fewer}another --partition, or cancel one of your jobs in {placement.partition}"


def _describe(code: str) -> str:
    if code in REASONS:
        return REASONS[code]
    for pattern, text in _SENTENCES:
        if re.search(pattern, code, re.I):
            return text
    if not _is_limit(code):
        return "waiting in the queue"
    whose = ("your group", "your group runs") if _is_group_limit(code) else ("you", "you run")
    text = next(text for pattern, text in _LIMITS if re.search(pattern, code))
    return text.format(whose=whose[0], whose_run=whose[1])


def _is_limit(code: str) -> bool:
    return bool(re.match(r"Assoc(Grp|Max)|QOS(Grp|Max|Min)|Max\w+Per(Account|User|Acct)", code))


def _is_group_limit(code: str) -> bool:
    return "Grp" in code or "PerAcc" in code
