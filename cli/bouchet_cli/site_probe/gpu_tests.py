"""Which way of asking for a GPU, and which account, this Slurm accepts: tests to run, and what follows. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .parse import NAME, ClusterFacts, ProbedPartition

# in the order in which they are preferred
STYLES = ("gpus", "gpus-per-node", "gres", "gpus-per-task", "none")
_KINDS = ("typed", "plain")
_STATUS = re.compile(r"(?m)^status (\d+)$")
_NEEDS_CONSTRAINT = re.compile(r"constraint|feature", re.IGNORECASE)
# how many features of nodes are tried
MOST_FEATURES = 6
# how many partitions are tried, and how many texts of one style are shown
MOST_PARTITIONS, MOST_REFUSALS = 3, 4
_NEEDS_ACCOUNT = re.compile(r"account", re.IGNORECASE)
# that a job would be accepted later is no fault of the request
_LATER = re.compile(
    r"Job violates accounting/QOS policy|MaxSubmitJob|QOSMaxSubmit|Requested nodes are busy", re.IGNORECASE
)

Tests = list[tuple[str, list[str]]]


@dataclass(frozen=True)
class GpuRequestChoice:
    """How to ask. style: None where every way is refused. refusals: what sbatch answered, each text once, by style.

    asks_for_feature: whether a refusal names features of nodes; constraint: the feature that the tests named.
    """

    style: str | None
    with_type: bool
    account: str | None
    account_required: bool
    refusals: Mapping[str, tuple[str, ...]]
    asks_for_feature: bool = False
    constraint: str = ""

    @property
    def asks_for_gpus(self) -> bool:
        """Whether a way of asking for GPUs was accepted."""
        return self.style not in (None, "none")

    @property
    def wants_constraint(self) -> bool:
        """Whether no way of asking for GPUs was accepted, and one may be with a feature."""
        return self.asks_for_feature and not self.asks_for_gpus


def gpu_options(style: str, kind: str, count: int = 1) -> list[str]:
    """Return sbatch's options for GPUs in that style. kind: empty for none."""
    typed = f"{kind}:" if kind else ""
    return [] if style == "none" else [f"--{style}={f'gpu:{typed}' if style == 'gres' else typed}{count}"]


def features_to_try(partition: ProbedPartition) -> Sequence[str]:
    """Return the features of a partition's nodes that a site file can name, those of a GPU type first."""
    kinds = [kind.lower() for kind in partition.gpu_types]
    features = [feature for feature in partition.features if NAME.match(feature.replace(":", "_"))]
    return sorted(features, key=lambda feature: feature.lower() not in kinds)[:MOST_FEATURES]


def style_tests(facts: ClusterFacts, partition: ProbedPartition, constraint: str = "") -> Tests:
    """Return the tests of every style in a partition with GPUs, without an account and with each."""
    accounts: list[str] = ["", *facts.accounts[:4]]
    tests: Tests = []
    for at, account in enumerate(accounts):
        for style in STYLES:
            for kind in dict.fromkeys((partition.gpu_types[0] if partition.gpu_types else "", "")):
                more = [f"--account={account}"] if account else []
                more += [f"--constraint={constraint}"] if constraint else []
                options = [f"--partition={partition.name}", *gpu_options(style, kind), *more]
                tests.append((f"style-{style}-{'typed' if kind else 'plain'}-{at}", options))
    return tests


def choose_style(facts: ClusterFacts, sections: Mapping[str, str], constraint: str = "") -> GpuRequestChoice:
    """Return the first style that sbatch accepts: without an account, with a type, in the order of STYLES.

    A job without any option for GPUs is accepted at sites that do not give whole nodes, too: it counts last of all.
    """
    refusals: dict[str, tuple[str, ...]] = {}
    needs_account = asks_for_feature = False
    accounts = list(enumerate(["", *facts.accounts[:4]]))
    for styles in (STYLES[:-1], STYLES[-1:]):
        for at, account, style, kind in ((*a, style, kind) for a in accounts for style in styles for kind in _KINDS):
            name = f"style-{style}-{kind}-{at}"
            if name not in sections:
                continue
            if is_accepted(sections[name]):
                # without one every way was refused, in whatever words
                required = bool(account)
                with_type = kind == "typed"
                return GpuRequestChoice(
                    style, with_type, account or None, required, refusals, asks_for_feature, constraint
                )
            words = refusal_of(sections[name])
            needs_account |= not account and bool(_NEEDS_ACCOUNT.search(words))
            asks_for_feature |= bool(_NEEDS_CONSTRAINT.search(words))
            refusals[style] = tuple(dict.fromkeys([*refusals.get(style, ()), words]))
    return GpuRequestChoice(None, False, None, needs_account, refusals, asks_for_feature, constraint)


def merge_refusals(choices: Sequence[GpuRequestChoice]) -> Mapping[str, tuple[str, ...]]:
    """Return what sbatch answered in all tests, each text once, by style."""
    refusals: dict[str, tuple[str, ...]] = {}
    for choice in choices:
        for style, words in choice.refusals.items():
            refusals[style] = tuple(dict.fromkeys([*refusals.get(style, ()), *words]))
    return refusals


def partition_tests(facts: ClusterFacts, choice: GpuRequestChoice) -> Tests:
    """Return a test of each partition in the chosen style, and one for each feature where sbatch wants one named."""
    account = [f"--account={choice.account}"] if choice.account else []
    tests: Tests = []
    for partition in [*facts.gpu_partitions, *facts.cpu_partitions[:6]]:
        options = [f"--partition={partition.name}", *account]
        if partition in facts.gpu_partitions:
            kind = partition.gpu_types[0] if choice.with_type and partition.gpu_types else ""
            options += gpu_options(choice.style or "gpus", kind)
        tests.append((_test_name(partition), options))
        if choice.constraint:
            tests += [
                (_test_name(partition, feature), [*options, f"--constraint={feature}"])
                for feature in features_to_try(partition)
            ]
    return tests


def _test_name(partition: ProbedPartition, feature: str = "") -> str:
    return f"partition-{partition.name}" + (f"@{feature}" if feature else "")


def is_usable(partition: ProbedPartition, sections: Mapping[str, str]) -> bool:
    """Return whether sbatch accepted a job there; a partition that was not tested counts as usable."""
    text = sections.get(_test_name(partition))
    return text is None or is_accepted(text) or bool(constraint_of(partition, sections))


def constraint_of(partition: ProbedPartition, sections: Mapping[str, str]) -> str:
    """Return the feature with which sbatch accepted a job there, empty where it needs none."""
    if is_accepted(sections.get(_test_name(partition), "")):
        return ""
    tried = ((feature, sections.get(_test_name(partition, feature), "")) for feature in features_to_try(partition))
    return next((feature for feature, text in tried if is_accepted(text)), "")


def is_accepted(text: str) -> bool:
    """Return whether `sbatch --test-only` accepted the job, now or later."""
    found = _STATUS.findall(text)
    return (bool(found) and found[-1] == "0") or bool(_LATER.search(text))


def refusal_of(text: str) -> str:
    """Return the message of sbatch, in one line."""
    lines = [re.sub(r"^(sbatch|allocation failure): (error: )?", "", line.strip()) for line in text.splitlines()]
    kept = [line for line in lines if line and not _STATUS.match(line)]
    return "; ".join(dict.fromkeys(kept))[:300]


def describe_refusals(refusals: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield a line for each refusal of each style, MOST_REFUSALS of a style."""
    for style, texts in refusals.items():
        option = "no option" if style == "none" else f"--{style}"
        yield from (f"{option}: {words}" for words in texts[:MOST_REFUSALS])
        if len(texts) > MOST_REFUSALS:
            yield f"{option}: and {len(texts) - MOST_REFUSALS} more"
