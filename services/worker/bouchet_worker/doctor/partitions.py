"""Checks of the site file's partitions against Slurm's. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bouchet_core.config.site import Partition, Site
from bouchet_core.doctor import DoctorCheck
from bouchet_core.errors import SlurmOutputError
from bouchet_core.values import format_duration, parse_duration

from .checks import CheckFactory

SHOW_PARTITIONS = ("scontrol", "--oneliner", "show", "partition")
NODES_FORMAT = "%R|%G|%c|%m"
SHOW_NODES = ("sinfo", "--noheader", f"--format={NODES_FORMAT}")
QOS_FIELDS = "Name,MaxWall,MaxTRESPU,MaxJobsPU,MaxSubmitPU"
SHOW_QOS = ("sacctmgr", "--noheader", "--parsable2", "show", "qos", f"format={QOS_FIELDS}")
MIB_PER_GIB = 1024
_GIB_PER_UNIT = {"K": 1 / (1 << 20), "M": 1 / (1 << 10), "G": 1.0, "T": 1024.0}

_checks = CheckFactory("partitions")


@dataclass(frozen=True)
class LargestNode:
    """The largest node of a partition. gpu_types: of all its nodes."""

    cpus: int = 0
    memory_gib: int = 0
    gpus: int = 0
    gpu_types: frozenset[str] = frozenset()


@dataclass(frozen=True)
class QosLimits:
    """A QOS's limits for one user; None is no limit."""

    walltime_s: int | None = None
    gpus: int | None = None
    cpus: int | None = None
    memory_gib: int | None = None
    running: int | None = None
    submitted: int | None = None


@dataclass(frozen=True)
class SlurmPartition:
    """A partition as scontrol prints it."""

    up: bool
    walltime_s: int | None
    qos: str


def parse_partitions(text: str) -> dict[str, SlurmPartition]:
    """Parse `scontrol --oneliner show partition`, by name."""
    partitions = {}
    for line in text.splitlines():
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "PartitionName" in fields:
            walltime = _duration(fields.get("MaxTime", ""))
            up = fields.get("State") == "UP"
            partitions[fields["PartitionName"]] = SlurmPartition(up, walltime, fields.get("QoS", ""))
    return partitions


def parse_nodes(text: str) -> dict[str, LargestNode]:
    """Parse the rows of SHOW_NODES, e.g. `gpu|gpu:h200:8(S:0-1)|48|2000000+`, by partition."""
    nodes: dict[str, LargestNode] = {}
    for line in text.splitlines():
        name, gres, cpus, memory = (part.strip() for part in line.split("|"))
        old = nodes.get(name, LargestNode())
        typed = re.findall(r"gpu:(?:([^:,(]+):)?(\d+)", gres)
        nodes[name] = LargestNode(
            max(old.cpus, _minimum(cpus)),
            max(old.memory_gib, _minimum(memory) // MIB_PER_GIB),
            max(old.gpus, sum(int(count) for _, count in typed)),
            old.gpu_types | {kind for kind, _ in typed if kind},
        )
    return nodes


def parse_qos(text: str) -> dict[str, QosLimits]:
    """Parse the rows of SHOW_QOS, by name."""
    limits = {}
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) == 5:
            name, wall, tres, running, submitted = parts
            each = dict(pair.split("=", 1) for pair in tres.split(",") if "=" in pair)
            limits[name] = QosLimits(
                _duration(wall), _gpus(each), _integer(each.get("cpu", "")), _memory(each.get("mem", "")),
                _integer(running), _integer(submitted),
            )  # fmt: skip
    return limits


def partition_checks(
    site: Site,
    partitions: Mapping[str, SlurmPartition],
    nodes: Mapping[str, LargestNode],
    qos: Mapping[str, QosLimits] | None,
) -> list[DoctorCheck]:
    """Return one check per partition of the site file. qos: None when it could not be read."""
    checks = [_check(site, p, partitions, nodes.get(p.name, LargestNode()), qos or {}) for p in site.partitions]
    if qos is None:
        checks.append(_checks.unknown("limits of a user", "not compared: sacctmgr does not show the QOS here"))
    return checks


def _check(
    site: Site,
    ours: Partition,
    partitions: Mapping[str, SlurmPartition],
    largest: LargestNode,
    qos: Mapping[str, QosLimits],
) -> DoctorCheck:
    theirs, file = partitions.get(ours.name), f"sites/{site.name}.yaml"
    if theirs is None:
        needed = ours.auto or ours.name == site.cpu_partition
        problem = _checks.failed if needed else _checks.warning
        message = f"Slurm has no such partition for you; it has {', '.join(sorted(partitions)) or 'none'}"
        return problem(ours.name, message, f"correct or remove it in {file}")
    if not theirs.up:
        return _checks.warning(ours.name, "the partition is down", "ask the site, or use another --partition")
    differences = [
        *_limit_differences(ours, theirs, qos.get(theirs.qos, QosLimits())),
        *_size_differences(ours, largest),
    ]
    if differences:
        return _checks.warning(ours.name, "; ".join(differences), f"edit {file}")
    gpus = f"{largest.gpus} GPUs, " if largest.gpus and ours.gpus_per_node else ""
    walltime = format_duration(theirs.walltime_s) if theirs.walltime_s else "any time"
    size = f"nodes of {gpus}{largest.cpus} CPUs, {largest.memory_gib} GiB"
    return _checks.passed(ours.name, f"up to {walltime}; {size}")


def _limit_differences(ours: Partition, theirs: SlurmPartition, limits: QosLimits) -> Iterator[str]:
    """Yield where the limits of the site file and of Slurm differ."""
    walltimes = [seconds for seconds in (theirs.walltime_s, limits.walltime_s) if seconds is not None]
    configured = parse_duration(ours.max_walltime)
    if walltimes and min(walltimes) != configured:
        yield f"max_walltime is {format_duration(configured)}, Slurm's is {format_duration(min(walltimes))}"
    has_gpus = ours.gpus_per_node > 0
    pairs: Sequence[tuple[str, int | None, int | None]] = (
        ("max_gpus", ours.max_gpus if has_gpus else None, limits.gpus if has_gpus else None),
        ("max_cpus", ours.max_cpus, limits.cpus),
        ("max_memory_gib", ours.max_memory_gib, limits.memory_gib),
        ("max_running", ours.max_running, limits.running),
        ("max_submitted", ours.max_submitted, limits.submitted),
    )
    for field, configured_limit, actual in pairs:
        if actual is not None and configured_limit != actual:
            yield f"{field} is {'not set' if configured_limit is None else configured_limit}, Slurm's is {actual}"


def _size_differences(ours: Partition, largest: LargestNode) -> Iterator[str]:
    """Yield where the site file has more than the largest node."""
    if largest == LargestNode():
        return
    for field, configured, actual in (
        ("gpus_per_node", ours.gpus_per_node, largest.gpus),
        ("cpus_per_node", ours.cpus_per_node, largest.cpus),
        ("memory_per_node_gib", ours.memory_per_node_gib, largest.memory_gib),
    ):
        if configured > actual:
            yield f"{field} is {configured}, its largest node has {actual}"
    missing = sorted(set(ours.gpu_types) - largest.gpu_types)
    if missing and ours.gpus_per_node:
        found = ", ".join(sorted(largest.gpu_types)) or "GPUs without a type"
        yield f"no {', '.join(missing)} GPUs there, but {found}"


def _duration(text: str) -> int | None:
    try:
        return parse_duration(text)
    except SlurmOutputError:  # UNLIMITED, or empty
        return None


def _gpus(tres: Mapping[str, str]) -> int | None:
    untyped = _integer(tres.get("gres/gpu", ""))
    typed = [int(value) for key, value in tres.items() if key.startswith("gres/gpu:") and value.isdigit()]
    return untyped if untyped is not None or not typed else sum(typed)


def _memory(text: str) -> int | None:
    """Return the GiB of `256G` or `524288M`; plain numbers are MiB."""
    size = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text)
    return int(float(size[1]) * _GIB_PER_UNIT[size[2] or "M"]) if size else None


def _integer(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _minimum(text: str) -> int:
    """Return the number of `48`, or of `2000000+`, which sinfo prints when nodes differ."""
    return _integer(text.rstrip("+")) or 0
