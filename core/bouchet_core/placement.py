"""Where a model runs: catalog entry, request and site in, placement out. Pure; every limit is from the site file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .config.catalog import ModelEntry, parallel_of
from .config.site import Partition, Site, SiteImage
from .deployments import Deployment, LaunchRequest, Placement
from .errors import LaunchRefusedError
from .values import format_duration, parse_duration, pin_arch

AUTO_PARTITION = "auto"
# in the reason of a placement that waits for other jobs of the user
AFTER_OWN_JOB = ", after one of your jobs there ends: "
# Slurm counts in minutes and reads 0 as "no limit"
SHORTEST_S = 60
# the first vLLM with every option that jobs use (--shutdown-timeout is the newest)
OLDEST_VLLM = "0.18"


@dataclass(frozen=True)
class ResourceRequest:
    """The resources to place. gpus: of all nodes together; walltime_s: None if the request has none."""

    gpus: int
    nodes: int
    walltime_s: int | None

    @property
    def gpus_per_node(self) -> int:
        """GPUs on each node."""
        return self.gpus // self.nodes


@dataclass(frozen=True)
class UserUsage:
    """The user's jobs in one partition: queued or running, running, and the GPUs of those that run."""

    submitted: int = 0
    running: int = 0
    gpus: int = 0


def resource_request_of(entry: ModelEntry, request: LaunchRequest) -> ResourceRequest:
    """Return the request with the catalog's defaults; LaunchRefusedError if the GPUs cannot share the model."""
    gpus = entry.gpus if request.gpus is None else request.gpus
    nodes = entry.nodes if request.nodes is None else request.nodes
    if gpus % nodes:
        plural = "GPU does" if gpus == 1 else "GPUs do"
        raise LaunchRefusedError(
            f"{gpus} {plural} not divide among {nodes} nodes; use a multiple of {nodes} with --gpus"
        )
    parallel_of(entry, gpus, nodes)
    walltime_s = None if request.time is None else parse_duration(request.time)
    if walltime_s is not None and walltime_s < SHORTEST_S:
        raise LaunchRefusedError(f"--time {request.time} is too short: use a minute at least, e.g. 06:00:00")
    return ResourceRequest(gpus, nodes, walltime_s)


def waits_for_own_job(placement: Placement) -> bool:
    """Return whether other jobs of the user keep a candidate from starting, whatever Slurm's estimate says."""
    return AFTER_OWN_JOB in placement.why


def candidates(
    entry: ModelEntry, request: LaunchRequest, site: Site, usage: Mapping[str, UserUsage]
) -> tuple[Placement, ...]:
    """Return every placement that fits, the preferred one first; LaunchRefusedError names the nearest that would fit.

    usage: this user's jobs in each partition; empty if the cluster was not queried.
    """
    wanted = resource_request_of(entry, request)
    if request.partition not in (None, AUTO_PARTITION):
        return (_named(wanted, request, site, usage),)
    free: list[Placement] = []
    waiting: list[Placement] = []
    skipped: list[str] = []
    for partition in _automatic(wanted, site):
        used = usage.get(partition.name, UserUsage())
        problem = _misfit(wanted, partition, site) or _submit_limit(partition, used)
        wait = "" if problem else _running_limit(wanted, partition, used)
        if problem or wait:
            skipped.append(problem or wait)
        if problem:
            continue
        if wait:
            why = f"{partition.name}{AFTER_OWN_JOB}{wait}"
            waiting.append(_placement(wanted, request, partition, site, why))
        else:
            why = _why_first(wanted, partition, skipped)
            free.append(_placement(wanted, request, partition, site, why))
    if free or waiting:
        return (*free, *waiting)
    problems = "; ".join(skipped) or "none is enabled for automatic selection (`auto: true`)"
    raise LaunchRefusedError(f"no partition fits: {problems}{_nearest(wanted, site)}")


def image_for(entry: ModelEntry, site: Site) -> SiteImage:
    """Return the pinned image for the model; LaunchRefusedError if the site has none or its vLLM is too old."""
    pin = entry.image or site.default_image
    image = site.image(pin)
    if image is None:
        known = ", ".join(i.pin for i in site.images)
        raise LaunchRefusedError(f"the site file {site.name!r} has no image {pin!r}; known: {known}")
    check_arch(pin, site)
    oldest = max(entry.min_vllm, OLDEST_VLLM, key=_version)
    if _version(image.vllm) < _version(oldest):
        raise LaunchRefusedError(f"{entry.alias} needs vLLM {oldest} or newer; the image {pin} has {image.vllm}")
    return image


def check_arch(pin: str, site: Site) -> None:
    """Raise LaunchRefusedError for an image that the site's nodes cannot run or build."""
    arch = pin_arch(pin)
    if arch == site.cpu_arch:
        return
    fitting = ", ".join(image.pin for image in site.images if image.arch == site.cpu_arch)
    other = (
        f"use one of {fitting} (`default_image`, or `image` of the model)"
        if fitting
        else (
            f"list an image for {site.cpu_arch} under `images` in the site file"
            + (" (the name of one for arm64 has the part `arm64`)" if site.cpu_arch == "aarch64" else "")
        )
    )
    raise LaunchRefusedError(
        f"the image {pin} is for {arch}, and {site.title or site.name} has {site.cpu_arch} nodes: {other}"
    )


def image_of(record: Deployment, entry: ModelEntry, site: Site) -> SiteImage:
    """Return the image of a deployment: the pinned one of a relaunch, else the site's for the model."""
    pins = record.pins
    if pins is None:
        return image_for(entry, site)
    check_arch(pins.image, site)
    return SiteImage(pin=pins.image, vllm=pins.vllm, sha256=pins.image_sha256)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _automatic(wanted: ResourceRequest, site: Site) -> list[Partition]:
    """Return the partitions that may be selected automatically, in the site file's order."""
    if wanted.gpus == 0:
        cpu = site.partition(site.cpu_partition) if site.cpu_partition else None
        return [cpu] if cpu else []
    return [p for p in site.partitions if p.auto]


def _named(wanted: ResourceRequest, request: LaunchRequest, site: Site, usage: Mapping[str, UserUsage]) -> Placement:
    """Return the placement in the partition that the request names, even if other jobs of the user delay it."""
    partition = site.partition(request.partition or "")
    if partition is None:
        known = ", ".join(p.name for p in site.partitions)
        raise LaunchRefusedError(f"the site file {site.name!r} has no partition {request.partition!r}; known: {known}")
    problem = _misfit(wanted, partition, site, automatic=False)
    if problem:
        raise LaunchRefusedError(f"{problem}{_nearest(wanted, site)}")
    used = usage.get(partition.name, UserUsage())
    limit = _submit_limit(partition, used) or _running_limit(wanted, partition, used)
    chosen = f"selected for the relaunch of {request.like}" if request.like else "selected with --partition"
    why = chosen + (f"; {limit}" if limit else "") + _warnings(partition)
    return _placement(wanted, request, partition, site, why)


def _misfit(wanted: ResourceRequest, p: Partition, site: Site, *, automatic: bool = True) -> str:
    """Return why the request does not fit, empty if it does."""
    if wanted.gpus and p.max_gpus is not None and _held(wanted, p) > p.max_gpus:
        return f"{p.name} allows at most {_gpus(p.max_gpus)} per user, not {_held(wanted, p)}"
    if wanted.gpus and p.group_max_gpus is not None and _held(wanted, p) > p.group_max_gpus:
        return f"{p.name} allows at most {_gpus(p.group_max_gpus)} per group, not {_held(wanted, p)}"
    if automatic and p.auto_max_gpus is not None and wanted.gpus > p.auto_max_gpus:
        return f"{p.name} is only used automatically for up to {_gpus(p.auto_max_gpus)}"
    if automatic and wanted.gpus and p.gpu_types and site.gpu_type not in p.gpu_types:
        return f"{p.name} has no {site.gpu_type} GPUs"
    if wanted.gpus_per_node > p.gpus_per_node:
        return f"{p.name} has {_gpus(p.gpus_per_node)} per node, not {wanted.gpus_per_node}{_spread(wanted, p)}"
    if p.nodes is not None and wanted.nodes > p.nodes:
        return f"{p.name} has {_counted(p.nodes, 'node')}, not {wanted.nodes}"
    if wanted.walltime_s is not None and wanted.walltime_s > parse_duration(p.max_walltime):
        return f"{p.name} allows at most {p.max_walltime}, not {format_duration(wanted.walltime_s)}"
    return ""


def _held(wanted: ResourceRequest, p: Partition) -> int:
    """Return how many GPUs a job of that size keeps from others."""
    return p.gpus_per_node * wanted.nodes if p.whole_node and wanted.gpus else wanted.gpus


def _spread(wanted: ResourceRequest, p: Partition) -> str:
    """Return the number of nodes over which the GPUs would fit, empty if over none."""
    if not p.gpus_per_node:
        return ""
    nodes = -(-wanted.gpus // p.gpus_per_node)
    fits = wanted.gpus % nodes == 0 and (p.nodes is None or nodes <= p.nodes)
    return f" (--nodes {nodes} spreads them)" if fits else ""


def _submit_limit(p: Partition, used: UserUsage) -> str:
    """Return why the partition refuses another job of the user now, empty if it does not."""
    if p.max_submitted is not None and used.submitted >= p.max_submitted:
        return f"{p.name} has a limit of {_counted(p.max_submitted, 'job')} per user, and you have {used.submitted}"
    return ""


def _running_limit(wanted: ResourceRequest, p: Partition, used: UserUsage) -> str:
    """Return which limit makes a new job wait for other jobs of the user, empty if none does."""
    if p.max_running is not None and used.running >= p.max_running:
        return f"{p.name} has a limit of {_counted(p.max_running, 'running job')} per user, and you have {used.running}"
    if p.max_gpus is not None and used.gpus + _held(wanted, p) > p.max_gpus and used.gpus:
        return f"{p.name} allows at most {_gpus(p.max_gpus)} per user, and your jobs there use {used.gpus}"
    return ""


def _warnings(p: Partition) -> str:
    warnings = ["its jobs may be stopped without notice" if p.preemptible else "", p.cost]
    return "".join(f"; {warning}" for warning in warnings if warning)


def _why_first(wanted: ResourceRequest, chosen: Partition, skipped: list[str]) -> str:
    size = f"{_gpus(wanted.gpus)} for {format_duration(wanted.walltime_s)}" if wanted.walltime_s else _gpus(wanted.gpus)
    return f"{chosen.name} is the first partition that fits {size}" + "".join(f"; {problem}" for problem in skipped)


def _placement(wanted: ResourceRequest, request: LaunchRequest, p: Partition, site: Site, why: str) -> Placement:
    """Return the placement: cpus and memory per node, capped at the node's; the walltime capped at the partition's."""
    share = max(wanted.gpus_per_node, 1)
    longest = parse_duration(p.max_walltime)
    default = min(parse_duration(site.default_walltime), longest)
    return Placement(
        partition=p.name,
        gpus=wanted.gpus,
        gpu_type=_gpu_type(p, site),
        nodes=wanted.nodes,
        cpus=_capped(site.cpus_per_gpu * share, p.cpus_per_node, p.max_cpus, wanted.nodes),
        memory_gib=_capped(site.memory_per_gpu_gib * share, p.memory_per_node_gib, p.max_memory_gib, wanted.nodes),
        walltime_s=default if wanted.walltime_s is None else wanted.walltime_s,
        account=request.account or site.account_for(p.name),
        qos=request.qos or p.qos,
        constraint=request.constraint or p.constraint,
        gpu_request=site.gpu_request,
        gpu_type_requested=site.gpu_type_requested,
        whole_node=p.whole_node,
        whole_node_gpus=_held(wanted, p) if p.whole_node else 0,
        why=why,
    )


def _gpu_type(p: Partition, site: Site) -> str:
    """Return the site's usual type, or the partition's own if it has none of those."""
    return p.gpu_types[0] if p.gpu_types and site.gpu_type not in p.gpu_types else site.gpu_type


def _capped(share: int, node_limit: int, user_limit: int | None, nodes: int) -> int:
    """Return a node's part of the job: at most what the node has, and what the user may use in all."""
    return min(share, node_limit, share if user_limit is None else max(user_limit // nodes, 1))


def _nearest(wanted: ResourceRequest, site: Site) -> str:
    """Return the closest request that some partition fits: first with less walltime, then with fewer GPUs."""
    best: tuple[tuple[int, int], str] | None = None
    for p in site.partitions:
        nearer = _clipped(wanted, p)
        if _misfit(nearer, p, site, automatic=False) or (wanted.gpus and not nearer.gpus):
            continue
        cost = (wanted.gpus - nearer.gpus, (wanted.walltime_s or 0) - (nearer.walltime_s or 0))
        if best is None or cost < best[0]:
            best = (cost, _options(nearer, p))
    return f". The nearest that would fit: {best[1]}" if best else ""


def _clipped(wanted: ResourceRequest, p: Partition) -> ResourceRequest:
    limit = p.gpus_per_node * wanted.nodes
    gpus = min(wanted.gpus, limit if p.max_gpus is None else min(limit, p.max_gpus))
    time = None if wanted.walltime_s is None else min(wanted.walltime_s, parse_duration(p.max_walltime))
    return ResourceRequest(gpus - gpus % wanted.nodes, wanted.nodes, time)


def _options(wanted: ResourceRequest, p: Partition) -> str:
    options = [f"--partition {p.name}", f"--gpus {wanted.gpus}"]
    if wanted.nodes > 1:
        options.append(f"--nodes {wanted.nodes}")
    if wanted.walltime_s is not None:
        options.append(f"--time {format_duration(wanted.walltime_s)}")
    return " ".join(options) + (f" ({p.note})" if p.note else "")


def _gpus(count: int) -> str:
    return _counted(count, "GPU")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
