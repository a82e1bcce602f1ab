"""Why a job waits, in words: Slurm's pending reasons (squeue's manual, JOB REASON CODES) as one table."""

from __future__ import annotations

import re
from collections.abc import Mapping

WAITS: Mapping[str, str] = {
    "AccountNotAllowed": "the partition does not take jobs of this account; name another with --account",
    "AccountingPolicy": "a limit of your account is reached",
    "BadConstraints": "no node can ever satisfy the constraints; cancel it and launch without --constraint",
    "BeginTime": "its earliest start time has not come yet (after a requeue Slurm waits about two minutes)",
    "Cleaning": "the nodes are being cleaned up from the run before",
    "DeadLine": "it cannot end before its deadline",
    "Dependency": "it waits for another job to finish",
    "DependencyNeverSatisfied": "the job it depends on failed, so it will never start; cancel it",
    "InactiveLimit": "the system's inactivity limit was reached",
    "InvalidAccount": "the account is not valid; name another with --account",
    "InvalidQOS": "the QOS is not valid; name another with --qos",
    "JobArrayTaskLimit": "its array's limit of running tasks is reached",
    "JobHeldAdmin": "an administrator holds it; ask the site",
    "JobHeldUser": "it is held by you; `scontrol release` lets it go",
    "JobHoldMaxRequeue": "it was requeued too often and is held; cancel it and launch again",
    "JobLaunchFailure": "it could not be started on its node; Slurm holds it",
    "Licenses": "it waits for a license",
    "MaxGRESPerAccount": "your group already holds all the GPUs it may",
    "MaxMemPerLimit": "it asks for more memory per CPU or node than the partition allows",
    "NodeDown": "a node that it needs is down",
    "None": "Slurm has not looked at it yet",
    "OutOfMemory": "it ran out of memory",
    "PartitionConfig": "it asks for more than the partition has",
    "PartitionDown": "the partition is down; ask the site",
    "PartitionInactive": "the partition is switched off; ask the site",
    "PartitionNodeLimit": "it asks for more nodes than the partition has",
    "PartitionTimeLimit": "its walltime is longer than the partition allows; launch with a shorter --time",
    "Priority": "other jobs are ahead of it in the queue",
    "Prolog": "the node is being prepared",
    "QOSJobLimit": "the QOS's limit of jobs is reached",
    "QOSNotAllowed": "the partition does not take this QOS; name another with --qos",
    "QOSResourceLimit": "a limit of the QOS is reached",
    "QOSTimeLimit": "the QOS's time limit is reached",
    "QOSUsageThreshold": "the QOS's usage threshold is passed",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "Reservation": "it waits for its reservation",
    "Resources": "it is next, as soon as nodes with enough free GPUs, CPUs and memory are found",
    "SchedDefer": "Slurm puts off scheduling for now",
    "SystemFailure": "Slurm, the file system or the network failed; ask the site",
    "TimeLimit": "it used up its time",
}

_HELD = "that may be held at a time is reached; it starts when some"

# (pattern, words); the first that matches wins. Limits come in families: QOSMax..., AssocGrp..., Max...PerUser.
_FAMILIES: tuple[tuple[str, str], ...] = (
    (
        r"^ReqNodeNotAvail.*[Mm]aintenance",
        "it would run into a maintenance window: it starts after it, or sooner with a shorter --time",
    ),
    (r"^ReqNodeNotAvail", WAITS["ReqNodeNotAvail"]),
    (r"MaxJobsPer|MaxJobsLimit|GrpJobsLimit", "you run as many jobs as the limit allows; it starts when one ends"),
    (r"SubmitJob", "the limit of submitted jobs is reached; it goes on when one ends"),
    (r"Wall|Minutes|Mins", "the limit of computing time is reached"),
    (r"GRES|TRES|[Gg]res|gpu", f"the limit of GPUs {_HELD} are given back"),
    (r"CPU|[Cc]pu|Core", f"the limit of CPUs {_HELD} are given back"),
    (r"Mem|MEM", f"the limit of memory {_HELD} is given back"),
    (r"Node", f"the limit of nodes {_HELD} are given back"),
    (r"^(Assoc|QOS)", "a limit of your account or QOS is reached"),
)


def reason_in_words(reason: str) -> str:
    """What a pending reason means, with Slurm's own word after it; an unknown word speaks for itself."""
    word = reason.strip().strip("()")
    if not word:
        return "waiting in the queue"
    if word == "None":
        return WAITS[word]
    family = next((words for pattern, words in _FAMILIES if re.search(pattern, word)), "waiting in the queue")
    return f"{WAITS.get(word, family)} ({word})"
