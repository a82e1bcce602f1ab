"""Why a job waits, in words: Slurm's pending reasons (squeue's manual, JOB REASON CODES), and what would start sooner.

A word that stands nowhere here is shown as Slurm said it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bouchet_core.deployments import Placement

WAITS: Mapping[str, str] = {
    "AccountNotAllowed": "the partition does not take jobs of this account; name another with --account",
    "AccountingPolicy": "a limit of your account is reached",
    "BadConstraints": "no node can ever satisfy the constraints; cancel it and launch without --constraint",
    "BeginTime": "its earliest start time has not come yet (after a requeue Slurm waits about two minutes)",
    "Cleaning": "the nodes are being cleaned up from the run before",
    "DeadLine": "it cannot end before its deadline",
    "Dependency": "it waits for another job to finish",
    "DependencyNeverSatisfied": "the job it depends on failed, so it will never start; cancel it",
    "FedJobLock": "it waits for the other clusters of the federation",
    "FrontEndDown": "no front end node is up; ask the site",
    "InactiveLimit": "the system's inactivity limit was reached",
    "InvalidAccount": "the account is not valid; name another with --account",
    "InvalidQOS": "the QOS is not valid; name another with --qos",
    "JobArrayTaskLimit": "its array's limit of running tasks is reached",
    "JobHeldAdmin": "an administrator holds it; ask the site",
    "JobHeldUser": "it is held by you; `scontrol release` lets it go",
    "JobHoldMaxRequeue": "it was requeued too often and is held; cancel it and launch again",
    "JobLaunchFailure": "it could not be started on its node; Slurm holds it",
    "Licenses": "it waits for a license",
    "MaxMemPerLimit": "it asks for more memory per CPU or node than the partition allows",
    "MaxRequeue": "it was requeued too often and is held; cancel it and launch again",
    "NodeDown": "a node that it needs is down",
    "NonZeroExitCode": "its last run failed",
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
    "ReservationDeleted": "its reservation was deleted; cancel it and launch again",
    "Reserved": "the nodes are reserved for others",
    "Resources": "it is next, as soon as nodes with enough free GPUs, CPUs and memory are found",
    "SchedDefer": "Slurm puts off scheduling for now",
    "SystemFailure": "Slurm, the file system or the network failed; ask the site",
    "TimeLimit": "it used up its time",
}

MAINTENANCE = "it would run into a maintenance window: it starts after it, or sooner with a shorter --time"
_HELD = "that {whose} may hold at a time is reached; it starts when some"
_LESS = "and will never start; cancel it and launch with less"

# Sentences that Slurm prints instead of a word, spelt with spaces or with underscores.
_SENTENCES: tuple[tuple[str, str], ...] = (
    (r"^ReqNodeNotAvail.*maintenance", MAINTENANCE),
    (r"^ReqNodeNotAvail", WAITS["ReqNodeNotAvail"]),
    (r"^Nodes[ _]required[ _]for[ _]job", "nodes that it needs are down, drained or kept for jobs of higher priority"),
    (r"launch[ _]failed[ _]requeued", "its node could not start it and Slurm holds it; cancel it and launch again"),
    (r"requeued[ _]in[ _]held", "Slurm put it back and holds it; `scontrol release` lets it go"),
)

# Limits come in families: QOSMax...PerUser, AssocGrp..., Max...PerAccount. The first that matches wins.
_LIMITS: tuple[tuple[str, str], ...] = (
    (r"^QOSMin", f"it asks for less than the QOS takes {_LESS.replace('less', 'more')}"),
    (r"Wall\w*PerJob", "its walltime is longer than the limit allows; cancel it and launch with a shorter --time"),
    (r"(GRES|TRES|[Gg]res)\w*Per(Job|Node)", f"it asks for more GPUs than the limit allows one job {_LESS}"),
    (r"Per(Job|Node)", f"it asks for more than the limit allows one job {_LESS}"),
    (r"Submit", "the limit of submitted jobs is reached; it goes on when one ends"),
    (r"JobsPer|JobsLimit|JobsPU|JobsAccrue", "{whose_run} as many jobs as the limit allows; it starts when one ends"),
    (r"Wall|Minutes|Mins", "the limit of computing time of {whose} is reached"),
    (r"GRES|TRES|[Gg]res|gpu", f"the limit of GPUs {_HELD} are given back"),
    (r"CPU|[Cc]pu|Core", f"the limit of CPUs {_HELD} are given back"),
    (r"Mem|MEM", f"the limit of memory {_HELD} is given back"),
    (r"Node", f"the limit of nodes {_HELD} are given back"),
    (r"", "a limit of {whose} is reached"),
)
_FITS_A_GAP = "a shorter --time may fit into a gap and start sooner; `--partition auto` asks for the earliest start"


def describe_pending_reason(reason: str) -> str:
    """What a pending reason means, with Slurm's own word after it; an unknown word speaks for itself."""
    word = reason.strip().strip("()")
    if not word:
        return "waiting in the queue"
    return WAITS[word] if word == "None" else f"{_words(word)} ({word})"


def suggest_earlier_start(reason: str, placement: Placement | None) -> str:
    """What would start sooner than waiting, empty where nothing is known to."""
    word = reason.strip().strip("()")
    if placement is None:
        return ""
    if word in ("Priority", "Resources"):
        return _FITS_A_GAP
    if not _is_limit(word) or re.search(r"Per(Job|Node)|^QOSMin|Mins|Minutes", word):
        return ""
    if _is_the_groups(word):
        return "the limit is your group's: sooner with another --account or --partition"
    fewer = "fewer --gpus, " if re.search(r"GRES|TRES|[Gg]res|gpu", word) and placement.gpus > 1 else ""
    return f"sooner: {fewer}another --partition, or end one of your jobs in {placement.partition}"


def _words(word: str) -> str:
    if word in WAITS:
        return WAITS[word]
    for pattern, words in _SENTENCES:
        if re.search(pattern, word, re.I):
            return words
    if not _is_limit(word):
        return "waiting in the queue"
    whose = ("your group", "your group runs") if _is_the_groups(word) else ("you", "you run")
    words = next(words for pattern, words in _LIMITS if re.search(pattern, word))
    return words.format(whose=whose[0], whose_run=whose[1])


def _is_limit(word: str) -> bool:
    return bool(re.match(r"Assoc(Grp|Max)|QOS(Grp|Max|Min)|Max\w+Per(Account|User|Acct)", word))


def _is_the_groups(word: str) -> bool:
    return "Grp" in word or "PerAcc" in word
