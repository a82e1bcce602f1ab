"""What a login node printed, as facts about the cluster. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bouchet_cli.client.errors import CommandError

Sections = Mapping[str, str]
GIB_OF_MIB = 1 / 1024
# of a name of Slurm's, as site files take it
NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")
GPU = re.compile(r"(?:^|,)gpu(?::([A-Za-z][\w.-]*))?:(\d+)")


@dataclass(frozen=True)
class ProbedPartition:
    """One partition. Memory in GiB of a node; limits are per user, None where there is none."""

    name: str
    max_time: str
    nodes: int = 0
    cpus: int = 1
    memory_gib: int = 1
    gpus: int = 0
    gpu_types: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    is_default: bool = False
    is_exclusive: bool = False
    is_preemptible: bool = False
    max_gpus: int | None = None
    max_cpus: int | None = None
    max_running: int | None = None
    max_submitted: int | None = None
    group_max_gpus: int | None = None


@dataclass(frozen=True)
class ClusterFacts:
    """What the first script found."""

    user: str
    slurm_dir: str
    version: str
    partitions: Sequence[ProbedPartition]
    accounts: Sequence[str]
    has_accounting: bool
    containers: Sequence[str]
    modules: Sequence[str]
    directories: Sequence[str]
    quota: str
    caches: Sequence[str]
    machine: str
    proxy: str
    reaches_hub: bool
    maintenance: str
    submit_plugins: str = ""
    missing: Sequence[str] = field(default=())

    @property
    def gpu_partitions(self) -> Sequence[ProbedPartition]:
        """Partitions with GPUs. Where all nodes have some, those without `gpu` in their name are for other jobs."""
        found = [partition for partition in self.partitions if partition.gpus]
        named = [partition for partition in found if "gpu" in partition.name.lower()]
        return named if named and len(found) == len(self.partitions) else found

    @property
    def cpu_partitions(self) -> Sequence[ProbedPartition]:
        """The others, the default one first."""
        gpu = {partition.name for partition in self.gpu_partitions}
        return sorted((p for p in self.partitions if p.name not in gpu), key=lambda p: (not p.is_default, p.name))


def parse_facts(host: str, sections: Sections) -> ClusterFacts:
    """Return the facts. Raises CommandError where the host is no login node of a Slurm cluster."""
    if not sections.get("sbatch", "").strip().startswith("/") and not sections.get("slurm_dir"):
        raise CommandError(
            f"{host} answers, but has no sbatch: it is not the login node of a Slurm cluster, or Slurm's programs "
            "are in a folder that no shell start-up file adds to the PATH"
        )
    limits = parse_limits(sections.get("qos", ""))
    nodes = parse_nodes(sections.get("nodes", ""))
    rows = [parse_pairs(line) for line in lines_of(sections, "partitions")]
    partitions = [make_partition(row, nodes, limits, rows) for row in rows if NAME.match(row.get("PartitionName", ""))]
    if not partitions:
        raise CommandError(f"scontrol on {host} lists no partition: {first_line(sections, 'partitions')}")
    associations = [line.split("|") for line in lines_of(sections, "associations") if "|" in line]
    config = dict(re.findall(r"(?m)^(\w+)\s*=\s*(.*?)\s*$", sections.get("config", "")))
    plugins = config.get("JobSubmitPlugins", "")
    return ClusterFacts(
        user=first_line(sections, "user"),
        slurm_dir=first_line(sections, "slurm_dir"),
        version=first_line(sections, "version"),
        partitions=partitions,
        accounts=list(dict.fromkeys(row[0] for row in associations if NAME.match(row[0]))),
        has_accounting="slurmdbd" in config.get("AccountingStorageType", ""),
        containers=[line.rpartition("/")[2] for line in lines_of(sections, "containers") if line.startswith("/")],
        modules=[line.strip() for line in lines_of(sections, "modules") if re.match(r"^[\w./+-]+$", line.strip())],
        directories=[line for line in lines_of(sections, "directories") if line.startswith("/")],
        quota=first_line(sections, "quota").rpartition("/")[2],
        caches=[line for line in lines_of(sections, "caches") if line.startswith("/")],
        machine=first_line(sections, "machine"),
        proxy=first_line(sections, "proxy"),
        reaches_hub=first_line(sections, "hub") == "200",
        maintenance=parse_maintenance(sections.get("reservations", "")),
        submit_plugins="" if plugins in ("", "(null)") else plugins,
    )


def lines_of(sections: Sections, name: str) -> list[str]:
    """Return the lines of a section that are not empty."""
    return [line.strip() for line in sections.get(name, "").splitlines() if line.strip()]


def first_line(sections: Sections, name: str) -> str:
    """Return the first line of a section, empty where there is none."""
    return next(iter(lines_of(sections, name)), "")


def parse_pairs(line: str) -> dict[str, str]:
    """Return the `Name=value` words of a line of scontrol."""
    return dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", line))


@dataclass(frozen=True)
class NodeKind:
    """The nodes of one kind in a partition, as sinfo groups them."""

    count: int
    cpus: int
    memory_gib: int
    gpus: int
    gpu_type: str
    features: tuple[str, ...]


def parse_nodes(text: str) -> dict[str, list[NodeKind]]:
    """Return the kinds of nodes of each partition, from sinfo's `%P|%D|%c|%m|%G|%f`."""
    found: dict[str, list[NodeKind]] = {}
    for line in text.splitlines():
        words = line.strip().split("|")
        if len(words) != 6:
            continue
        count, cpus, memory = (int(re.sub(r"\D.*", "", word) or 0) for word in words[1:4])
        gpu = GPU.search(re.sub(r"\([^)]*\)", "", words[4]))
        features = () if words[5] == "(null)" else tuple(words[5].split(","))
        kind = NodeKind(
            count, cpus, int(memory * GIB_OF_MIB), int(gpu[2]) if gpu else 0, (gpu[1] or "") if gpu else "", features
        )
        found.setdefault(words[0].rstrip("*"), []).append(kind)
    return found


def parse_limits(text: str) -> dict[str, dict[str, int]]:
    """Return the limits of each QOS, from `name|maxtrespu|maxjobspu|maxsubmitpu|grptres|maxwall`."""
    found: dict[str, dict[str, int]] = {}
    for line in text.splitlines():
        words = line.strip().split("|")
        if len(words) != 6:
            continue
        user, group = parse_tres(words[1]), parse_tres(words[4])
        numbers = {
            "max_gpus": user.get("gres/gpu"),
            "max_cpus": user.get("cpu"),
            "group_max_gpus": group.get("gres/gpu"),
            "max_running": int(words[2]) if words[2].isdigit() else None,
            "max_submitted": int(words[3]) if words[3].isdigit() else None,
        }
        found[words[0]] = {name: number for name, number in numbers.items() if number is not None}
    return found


def parse_tres(text: str) -> dict[str, int]:
    """Return the whole numbers of `cpu=12,gres/gpu=2,mem=1T`; GPUs of one type count too where no total is given."""
    found = dict(re.findall(r"([\w/:.-]+)=(\d+)(?=,|$)", text))
    numbers = {name: int(number) for name, number in found.items()}
    typed = [number for name, number in numbers.items() if name.startswith("gres/gpu:")]
    return {**({"gres/gpu": max(typed)} if typed else {}), **numbers}


def make_partition(
    row: Mapping[str, str],
    nodes: Mapping[str, Sequence[NodeKind]],
    limits: Mapping[str, Mapping[str, int]],
    rows: Sequence[Mapping[str, str]],
) -> ProbedPartition:
    """Return a partition from scontrol's row, its nodes and the limits of its QOS."""
    name = row["PartitionName"]
    kinds = list(nodes.get(name, ()))
    with_gpus = [kind for kind in kinds if kind.gpus] or kinds
    largest = max(with_gpus, key=lambda kind: (kind.gpus, kind.count), default=None)
    tier, tiers = int(row.get("PriorityTier", "1") or 1), [int(r.get("PriorityTier", "1") or 1) for r in rows]
    may_preempt = row.get("PreemptMode", "OFF") not in ("OFF", "") and tier < max(tiers)
    return ProbedPartition(
        name=name,
        max_time=row.get("MaxTime", "UNLIMITED"),
        nodes=sum(kind.count for kind in with_gpus),
        cpus=largest.cpus if largest else 1,
        memory_gib=max(largest.memory_gib if largest else 1, 1),
        gpus=largest.gpus if largest else 0,
        gpu_types=tuple(dict.fromkeys(kind.gpu_type for kind in with_gpus if kind.gpu_type)),
        features=tuple(dict.fromkeys(feature for kind in with_gpus for feature in kind.features)),
        is_default=row.get("Default") == "YES",
        is_exclusive=row.get("OverSubscribe", "") == "EXCLUSIVE",
        is_preemptible=may_preempt or bool(re.search(r"scaveng|preempt|backfill|spot", name, re.IGNORECASE)),
        **limits.get(row.get("QoS", row.get("QOS", "")), {}),
    )


def parse_maintenance(text: str) -> str:
    """Return the next maintenance that Slurm knows, empty where there is none."""
    for line in text.splitlines():
        row = parse_pairs(line)
        if "MAINT" in row.get("Flags", "") and row.get("StartTime"):
            return f"{row['StartTime']} to {row.get('EndTime', '?')} ({row.get('ReservationName', '')})"
    return ""
