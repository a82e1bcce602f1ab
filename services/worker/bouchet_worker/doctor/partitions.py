"""The partitions of the site file beside those that Slurm really has. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bouchet_core.doctor import DoctorCheck
from bouchet_core.durations import format_duration, parse_duration
from bouchet_core.errors import SlurmOutputError
from bouchet_core.site import Partition, Site

from .findings import Findings

SHOW_PARTITIONS = ("scontrol", "--oneliner", "show", "partition")
NODES_FORMAT = "%R|%G|%c|%m"
SHOW_NODES = ("sinfo", "--noheader", f"--format={NODES_FORMAT}")
QOS_FIELDS = "Name,MaxWall,MaxTRESPU,MaxJobsPU,MaxSubmitPU"
SHOW_QOS = ("sacctmgr", "--noheader", "--parsable2", "show", "qos", f"format={QOS_FIELDS}")
MIB_PER_GIB = 1024
_SIZES = {"K": 1 / (1 << 20), "M": 1 / (1 << 10), "G": 1.0, "T": 1024.0}

found = Findings("partitions")


@dataclass(frozen=True)
class Nodes:
    """The largest node of a partition. gpu_types: all there."""

    cpus: int = 0
    memory_gib: int = 0
    gpus: int = 0
    gpu_types: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Limits:
    """What Slurm allows; None is no limit."""

    walltime_s: int | None = None
    gpus: int | None = None
    cpus: int | None = None
    memory_gib: int | None = None
    running: int | None = None
    submitted: int | None = None


@dataclass(frozen=True)
class Shown:
    """A partition as scontrol shows it."""

    up: bool
    walltime_s: int | None
    qos: str


def parse_partitions(text: str) -> dict[str, Shown]:
    """`scontrol --oneliner show partition`, by name."""
    partitions = {}
    for line in text.splitlines():
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "PartitionName" in fields:
            walltime = _duration(fields.get("MaxTime", ""))
            partitions[fields["PartitionName"]] = Shown(fields.get("State") == "UP", walltime, fields.get("QoS", ""))
    return partitions


def parse_nodes(text: str) -> dict[str, Nodes]:
    """The rows of SHOW_NODES: `gpu|gpu:h200:8(S:0-1)|48|2000000+`, by partition."""
    nodes: dict[str, Nodes] = {}
    for line in text.splitlines():
        name, gres, cpus, memory = (part.strip() for part in line.split("|"))
        old = nodes.get(name, Nodes())
        typed = re.findall(r"gpu:(?:([^:,(]+):)?(\d+)", gres)
        nodes[name] = Nodes(
            max(old.cpus, _number(cpus)),
            max(old.memory_gib, _number(memory) // MIB_PER_GIB),
            max(old.gpus, sum(int(count) for _, count in typed)),
            old.gpu_types | {kind for kind, _ in typed if kind},
        )
    return nodes


def parse_qos(text: str) -> dict[str, Limits]:
    """The rows of SHOW_QOS, by name."""
    limits = {}
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) == 5:
            name, wall, tres, running, submitted = parts
            each = dict(pair.split("=", 1) for pair in tres.split(",") if "=" in pair)
            limits[name] = Limits(
                _duration(wall), _gpus(each), _whole(each.get("cpu", "")), _memory(each.get("mem", "")),
                _whole(running), _whole(submitted),
            )  # fmt: skip
    return limits


def partition_checks(
    site: Site, shown: Mapping[str, Shown], nodes: Mapping[str, Nodes], qos: Mapping[str, Limits] | None
) -> list[DoctorCheck]:
    """One check a partition of the site file. qos: None where it could not be read."""
    checks = [_check(site, p, shown, nodes.get(p.name, Nodes()), qos or {}) for p in site.partitions]
    if qos is None:
        checks.append(
            found.unknown("limits of a user", "sacctmgr does not show the QOS here, so they were not compared")
        )
    return checks


def _check(
    site: Site, ours: Partition, shown: Mapping[str, Shown], nodes: Nodes, qos: Mapping[str, Limits]
) -> DoctorCheck:
    theirs, file = shown.get(ours.name), f"sites/{site.name}.yaml"
    if theirs is None:
        needed = ours.auto or ours.name == site.cpu_partition
        there = f"Slurm has no such partition for you; it has {', '.join(sorted(shown)) or 'none'}"
        return (found.bad if needed else found.warn)(ours.name, there, f"correct or remove it in {file}")
    if not theirs.up:
        return found.warn(ours.name, "it takes no jobs now", "ask the site, or name another with --partition")
    differences = [*_limits(ours, theirs, qos.get(theirs.qos, Limits())), *_sizes(ours, nodes)]
    if differences:
        return found.warn(ours.name, "; ".join(differences), f"edit {file}")
    sizes = f"{nodes.gpus} GPUs, " if nodes.gpus and ours.gpus_per_node else ""
    walltime = format_duration(theirs.walltime_s) if theirs.walltime_s else "any time"
    return found.good(ours.name, f"up to {walltime}; nodes of {sizes}{nodes.cpus} CPUs, {nodes.memory_gib} GiB")


def _limits(ours: Partition, theirs: Shown, limits: Limits) -> Iterator[str]:
    """Where the site file and Slurm's limits differ."""
    times = [seconds for seconds in (theirs.walltime_s, limits.walltime_s) if seconds is not None]
    asked = parse_duration(ours.max_walltime)
    if times and min(times) != asked:
        yield f"max_walltime is {format_duration(asked)}, Slurm's is {format_duration(min(times))}"
    pairs: Sequence[tuple[str, int | None, int | None]] = (
        ("max_gpus", ours.max_gpus if ours.gpus_per_node else None, limits.gpus if ours.gpus_per_node else None),
        ("max_cpus", ours.max_cpus, limits.cpus),
        ("max_memory_gib", ours.max_memory_gib, limits.memory_gib),
        ("max_running", ours.max_running, limits.running),
        ("max_submitted", ours.max_submitted, limits.submitted),
    )
    for field, mine, real in pairs:
        if real is not None and mine != real:
            yield f"{field} is {'not set' if mine is None else mine}, Slurm's is {real}"


def _sizes(ours: Partition, nodes: Nodes) -> Iterator[str]:
    """Where the site file promises more than the largest node has."""
    if nodes == Nodes():
        return
    for field, mine, real in (
        ("gpus_per_node", ours.gpus_per_node, nodes.gpus),
        ("cpus_per_node", ours.cpus_per_node, nodes.cpus),
        ("memory_per_node_gib", ours.memory_per_node_gib, nodes.memory_gib),
    ):
        if mine > real:
            yield f"{field} is {mine}, its largest node has {real}"
    missing = sorted(set(ours.gpu_types) - nodes.gpu_types)
    if missing and ours.gpus_per_node:
        yield f"no {', '.join(missing)} GPUs there, but {', '.join(sorted(nodes.gpu_types)) or 'none with a type'}"


def _duration(text: str) -> int | None:
    try:
        return parse_duration(text)
    except SlurmOutputError:  # UNLIMITED, or empty
        return None


def _gpus(tres: Mapping[str, str]) -> int | None:
    plain = _whole(tres.get("gres/gpu", ""))
    typed = [int(value) for key, value in tres.items() if key.startswith("gres/gpu:") and value.isdigit()]
    return plain if plain is not None or not typed else sum(typed)


def _memory(text: str) -> int | None:
    """GiB of `256G`, `524288M`; plain numbers are MiB."""
    size = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text)
    return int(float(size[1]) * _SIZES[size[2] or "M"]) if size else None


def _whole(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _number(text: str) -> int:
    """`48`, `2000000+` where nodes differ."""
    return _whole(text.rstrip("+")) or 0
