"""Where a model runs: catalog entry, request and site in, placement out. Pure; every limit is the site file's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .config.catalog import ModelEntry
from .config.parallel import parallel_of
from .config.site import Partition, Site, SiteImage
from .deployments import Deployment, LaunchRequest, Placement
from .errors import LaunchRefusedError
from .values import format_duration, parse_duration

AUTO_PARTITION = "auto"
# Slurm counts in minutes and takes 0 for "without end"
SHORTEST_S = 60
# the options that every job gives vLLM (--shutdown-timeout came last)
OLDEST_VLLM = "0.18"


@dataclass(frozen=True)
class ResourceRequest:
    """What has to be placed. gpus: all nodes together; walltime_s is None where nobody named one."""

    gpus: int
    nodes: int
    walltime_s: int | None

    @property
    def gpus_per_node(self) -> int:
        """GPUs on each node."""
        return self.gpus // self.nodes


@dataclass(frozen=True)
class UserUsage:
    """What the user's jobs in one partition take of its limits: jobs queued or running, jobs running, their GPUs."""

    submitted: int = 0
    running: int = 0
    gpus: int = 0


def resource_request_of(entry: ModelEntry, request: LaunchRequest) -> ResourceRequest:
    """The request, with the catalog's defaults. LaunchRefusedError when the GPUs cannot share the model."""
    gpus = entry.gpus if request.gpus is None else request.gpus
    nodes = entry.nodes if request.nodes is None else request.nodes
    if gpus % nodes:
        raise LaunchRefusedError(
            f"{gpus} GPUs do not divide among {nodes} nodes; use a multiple of {nodes} with --gpus"
        )
    parallel_of(entry, gpus, nodes)
    walltime_s = None if request.time is None else parse_duration(request.time)
    if walltime_s is not None and walltime_s < SHORTEST_S:
        raise LaunchRefusedError(f"--time {request.time} is too short: a minute at least, e.g. 06:00:00")
    return ResourceRequest(gpus, nodes, walltime_s)


def candidates(
    entry: ModelEntry, request: LaunchRequest, site: Site, held: Mapping[str, UserUsage]
) -> tuple[Placement, ...]:
    """Every placement that would do, the preferred one first; LaunchRefusedError says what would fit when none does.

    held: what this user has in each partition; empty where nobody asked the cluster.
    """
    wish = resource_request_of(entry, request)
    if request.partition not in (None, AUTO_PARTITION):
        return (_named(wish, request, site, held),)
    chosen: list[Placement] = []
    waiting: list[Placement] = []
    refused: list[str] = []
    for partition in _automatic(wish, site):
        now = held.get(partition.name, UserUsage())
        problem = _misfit(wish, partition, site) or _closed(partition, now)
        wait = "" if problem else _wait(wish, partition, now)
        if problem or wait:
            refused.append(problem or wait)
        if not problem:
            places = waiting if wait else chosen
            why = f"{partition.name} takes it when jobs end: {wait}" if wait else _why(wish, partition, refused)
            places.append(_placement(wish, request, partition, site, why))
    if chosen or waiting:
        return (*chosen, *waiting)
    problems = "; ".join(refused) or "none is chosen unasked"
    raise LaunchRefusedError(f"no partition takes it: {problems}{_nearest(wish, site)}")


def image_for(entry: ModelEntry, site: Site) -> SiteImage:
    """The pinned image to serve it with; LaunchRefusedError when the site has none, or one too old for the model."""
    pin = entry.image or site.default_image
    image = site.image(pin)
    if image is None:
        known = ", ".join(i.pin for i in site.images)
        raise LaunchRefusedError(f"the site file {site.name!r} lists no image {pin!r}; it has {known}")
    oldest = max(entry.min_vllm, OLDEST_VLLM, key=_version)
    if _version(image.vllm) < _version(oldest):
        raise LaunchRefusedError(f"{entry.alias} needs vLLM {oldest} or newer; the image {pin} has {image.vllm}")
    return image


def image_of(record: Deployment, entry: ModelEntry, site: Site) -> SiteImage:
    """The image of that deployment: the very one that it is pinned to, else what the site has for the model."""
    pins = record.pins
    if pins is None:
        return image_for(entry, site)
    return SiteImage(pin=pins.image, vllm=pins.vllm, sha256=pins.image_sha256)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _automatic(wish: ResourceRequest, site: Site) -> list[Partition]:
    """Partitions that may be chosen unasked, in the site file's order."""
    if wish.gpus == 0:
        cpu = site.partition(site.cpu_partition) if site.cpu_partition else None
        return [cpu] if cpu else []
    return [p for p in site.partitions if p.auto]


def _named(wish: ResourceRequest, request: LaunchRequest, site: Site, held: Mapping[str, UserUsage]) -> Placement:
    partition = site.partition(request.partition or "")
    if partition is None:
        known = ", ".join(p.name for p in site.partitions)
        raise LaunchRefusedError(
            f"the site file {site.name!r} knows no partition {request.partition!r}; it has {known}"
        )
    # jobs in the way only delay it there, and whoever names a partition may wait for it
    problem = _misfit(wish, partition, site, unasked=False)
    if problem:
        raise LaunchRefusedError(f"{problem}{_nearest(wish, site)}")
    now = held.get(partition.name, UserUsage())
    waits = _closed(partition, now) or _wait(wish, partition, now)
    why = "named with --partition" + (f"; {waits}" if waits else "") + _warnings(partition)
    return _placement(wish, request, partition, site, why)


def _misfit(wish: ResourceRequest, p: Partition, site: Site, *, unasked: bool = True) -> str:
    """Why it does not fit, empty when it does."""
    if wish.gpus and p.max_gpus is not None and wish.gpus > p.max_gpus:
        return f"{p.name} gives one user {_gpus(p.max_gpus)}, not {wish.gpus}"
    if wish.gpus and p.group_max_gpus is not None and wish.gpus > p.group_max_gpus:
        return f"{p.name} gives one group {_gpus(p.group_max_gpus)}, not {wish.gpus}"
    if unasked and p.auto_max_gpus is not None and wish.gpus > p.auto_max_gpus:
        return f"{p.name} is kept for {_gpus(p.auto_max_gpus)} or fewer"
    if unasked and wish.gpus and p.gpu_types and site.gpu_type not in p.gpu_types:
        return f"{p.name} has no {site.gpu_type} GPUs"
    if wish.gpus_per_node > p.gpus_per_node:
        return f"{p.name} has {_gpus(p.gpus_per_node)} on a node, not {wish.gpus_per_node}{_spread(wish, p)}"
    if p.nodes is not None and wish.nodes > p.nodes:
        return f"{p.name} has {p.nodes} nodes, not {wish.nodes}"
    if wish.walltime_s is not None and wish.walltime_s > parse_duration(p.max_walltime):
        return f"{p.name} runs jobs for {p.max_walltime} at most, not {format_duration(wish.walltime_s)}"
    return ""


def _spread(wish: ResourceRequest, p: Partition) -> str:
    """By how many nodes they would fit, where they can be spread over more."""
    if not p.gpus_per_node:
        return ""
    nodes = -(-wish.gpus // p.gpus_per_node)
    fits = wish.gpus % nodes == 0 and (p.nodes is None or nodes <= p.nodes)
    return f" (--nodes {nodes} spreads them)" if fits else ""


def _closed(p: Partition, held: UserUsage) -> str:
    """Why it takes no further job of the user now, empty when it does."""
    if p.max_submitted is not None and held.submitted >= p.max_submitted:
        return f"{p.name} takes {p.max_submitted} of your jobs at a time and has {held.submitted}"
    return ""


def _wait(wish: ResourceRequest, p: Partition, held: UserUsage) -> str:
    """Which of the user's own jobs a new one would have to wait for, empty when for none."""
    if p.max_running is not None and held.running >= p.max_running:
        return f"{p.name} runs {p.max_running} of your jobs at a time and runs {held.running}"
    if p.max_gpus is not None and held.gpus + wish.gpus > p.max_gpus and held.gpus:
        return f"{p.name} gives one user {_gpus(p.max_gpus)} and your jobs there hold {held.gpus}"
    return ""


def _warnings(p: Partition) -> str:
    words = ["its jobs may be stopped without notice" if p.preemptible else "", p.cost]
    return "".join(f"; {word}" for word in words if word)


def _why(wish: ResourceRequest, chosen: Partition, passed_over: list[str]) -> str:
    size = f"{_gpus(wish.gpus)} for {format_duration(wish.walltime_s)}" if wish.walltime_s else _gpus(wish.gpus)
    return f"{chosen.name} is the first that takes {size}" + "".join(f"; {problem}" for problem in passed_over)


def _placement(wish: ResourceRequest, request: LaunchRequest, p: Partition, site: Site, why: str) -> Placement:
    """cpus and memory are per node, capped at what a node has; the site's walltime at what the partition allows."""
    share = max(wish.gpus_per_node, 1)
    longest = parse_duration(p.max_walltime)
    default = min(parse_duration(site.default_walltime), longest)
    return Placement(
        partition=p.name,
        gpus=wish.gpus,
        gpu_type=_gpu_type(p, site),
        nodes=wish.nodes,
        cpus=_capped(site.cpus_per_gpu * share, p.cpus_per_node, p.max_cpus, wish.nodes),
        memory_gib=_capped(site.memory_per_gpu_gib * share, p.memory_per_node_gib, p.max_memory_gib, wish.nodes),
        walltime_s=default if wish.walltime_s is None else wish.walltime_s,
        account=request.account or p.account,
        qos=request.qos,
        constraint=request.constraint,
        why=why,
    )


def _gpu_type(p: Partition, site: Site) -> str:
    """The site's usual type, or the partition's own where it has none of those."""
    return p.gpu_types[0] if p.gpu_types and site.gpu_type not in p.gpu_types else site.gpu_type


def _capped(share: int, of_a_node: int, of_a_user: int | None, nodes: int) -> int:
    """A node's part of the job: no more than the node has, and than the user may hold in all."""
    return min(share, of_a_node, share if of_a_user is None else max(of_a_user // nodes, 1))


def _nearest(wish: ResourceRequest, site: Site) -> str:
    """The request closest to the wish that some partition takes: first fewer hours, then fewer GPUs."""
    best: tuple[tuple[int, int], str] | None = None
    for p in site.partitions:
        nearer = _clipped(wish, p)
        if _misfit(nearer, p, site, unasked=False) or (wish.gpus and not nearer.gpus):
            continue
        cost = (wish.gpus - nearer.gpus, (wish.walltime_s or 0) - (nearer.walltime_s or 0))
        if best is None or cost < best[0]:
            best = (cost, _options(nearer, p))
    return f". The nearest that would fit: {best[1]}" if best else ""


def _clipped(wish: ResourceRequest, p: Partition) -> ResourceRequest:
    limit = p.gpus_per_node * wish.nodes
    gpus = min(wish.gpus, limit if p.max_gpus is None else min(limit, p.max_gpus))
    time = None if wish.walltime_s is None else min(wish.walltime_s, parse_duration(p.max_walltime))
    return ResourceRequest(gpus - gpus % wish.nodes, wish.nodes, time)


def _options(wish: ResourceRequest, p: Partition) -> str:
    words = [f"--partition {p.name}", f"--gpus {wish.gpus}"]
    if wish.nodes > 1:
        words.append(f"--nodes {wish.nodes}")
    if wish.walltime_s is not None:
        words.append(f"--time {format_duration(wish.walltime_s)}")
    return " ".join(words) + (f" ({p.note})" if p.note else "")


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"
