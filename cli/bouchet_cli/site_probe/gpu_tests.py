"""Which way of asking for a GPU, and which account, this Slurm accepts: tests to run, and what follows. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .parse import ClusterFacts, ProbedPartition

# in the order in which they are preferred
STYLES = ("gpus", "gpus-per-node", "gres", "gpus-per-task", "none")
_STATUS = re.compile(r"(?m)^status (\d+)$")
_NEEDS_ACCOUNT = re.compile(r"account", re.IGNORECASE)
# that a job would be accepted later is no fault of the request
_LATER = re.compile(
    r"Job violates accounting/QOS policy|MaxSubmitJob|QOSMaxSubmit|Requested nodes are busy", re.IGNORECASE
)

Tests = list[tuple[str, list[str]]]


@dataclass(frozen=True)
class GpuRequestChoice:
    """How to ask. style: None where every way is refused. refusals: the refusals of sbatch, by style."""

    style: str | None
    with_type: bool
    account: str | None
    account_required: bool
    refusals: Mapping[str, str]


def gpu_options(style: str, kind: str, count: int = 1) -> list[str]:
    """Return sbatch's options for GPUs in that style. kind: empty for none."""
    typed = f"{kind}:" if kind else ""
    return [] if style == "none" else [f"--{style}={f'gpu:{typed}' if style == 'gres' else typed}{count}"]


def style_tests(facts: ClusterFacts) -> Tests:
    """Return the tests of every style in the first GPU partition, without an account and with each."""
    if not facts.gpu_partitions:
        return []
    partition = facts.gpu_partitions[0]
    accounts: list[str] = ["", *facts.accounts[:4]]
    tests: Tests = []
    for at, account in enumerate(accounts):
        for style in STYLES:
            for kind in dict.fromkeys((partition.gpu_types[0] if partition.gpu_types else "", "")):
                more = [f"--account={account}"] if account else []
                options = [f"--partition={partition.name}", *gpu_options(style, kind), *more]
                tests.append((f"style-{style}-{'typed' if kind else 'plain'}-{at}", options))
    return tests


def choose_style(facts: ClusterFacts, sections: Mapping[str, str]) -> GpuRequestChoice:
    """Return the first style that sbatch accepts: without an account, with a type, in the order of STYLES."""
    refusals: dict[str, str] = {}
    needs_account = False
    for at, account in enumerate(["", *facts.accounts[:4]]):
        for style in STYLES:
            for kind in ("typed", "plain"):
                name = f"style-{style}-{kind}-{at}"
                if name not in sections:
                    continue
                if is_accepted(sections[name]):
                    required = bool(account) and needs_account
                    return GpuRequestChoice(style, kind == "typed", account or None, required, refusals)
                words = refusal_of(sections[name])
                needs_account |= not account and bool(_NEEDS_ACCOUNT.search(words))
                refusals.setdefault(style, words)
    return GpuRequestChoice(None, False, None, needs_account, refusals)


def partition_tests(facts: ClusterFacts, choice: GpuRequestChoice) -> Tests:
    """Return a test of each partition in the chosen style."""
    account = [f"--account={choice.account}"] if choice.account else []
    tests: Tests = []
    for partition in facts.gpu_partitions:
        kind = partition.gpu_types[0] if choice.with_type and partition.gpu_types else ""
        options = gpu_options(choice.style or "gpus", kind)
        tests.append((f"partition-{partition.name}", [f"--partition={partition.name}", *options, *account]))
    tests += [
        (f"partition-{partition.name}", [f"--partition={partition.name}", *account])
        for partition in facts.cpu_partitions[:6]
    ]
    return tests


def is_usable(partition: ProbedPartition, sections: Mapping[str, str]) -> bool:
    """Return whether sbatch accepted a job there; a partition that was not tested counts as usable."""
    text = sections.get(f"partition-{partition.name}")
    return text is None or is_accepted(text)


def is_accepted(text: str) -> bool:
    """Return whether `sbatch --test-only` accepted the job, now or later."""
    found = _STATUS.findall(text)
    return (bool(found) and found[-1] == "0") or bool(_LATER.search(text))


def refusal_of(text: str) -> str:
    """Return the message of sbatch, in one line."""
    lines = [re.sub(r"^(sbatch|allocation failure): (error: )?", "", line.strip()) for line in text.splitlines()]
    kept = [line for line in lines if line and not _STATUS.match(line)]
    return "; ".join(dict.fromkeys(kept))[:300]


def describe_refusals(refusals: Mapping[str, str]) -> Sequence[str]:
    """Return a line for each refused style."""
    return [f"--{style}: {words}" if style != "none" else f"no option: {words}" for style, words in refusals.items()]
