"""The site file as text, with where each value is from, and what could not be found. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .gpu_tests import GpuRequestChoice, constraint_of, describe_refusals, is_usable, refusal_of
from .parse import ClusterFacts, ProbedPartition

# memory of one GPU in GiB as CUDA reports it, by the beginning of Slurm's name for the type
GPU_MEMORY: Mapping[str, float] = {
    "b200": 178.3, "h200": 139.8, "gh200": 94.5, "h100": 79.1, "a100": 39.5, "l40s": 44.4, "a40": 44.4, "l4": 22.0,
    "rtx6000": 47.5, "v100": 31.7, "a30": 23.6, "a6000": 47.5,
}  # fmt: skip
LONGEST, UNLIMITED = "7-00:00:00", ("UNLIMITED", "INFINITE", "")
DEVEL = re.compile(r"dev|debug|interactive|test", re.IGNORECASE)
# share of a node's memory that jobs may have
USABLE_MEMORY = 0.95
DEFAULT_WALLTIME_H = 6
IMAGES = ("  - {pin: cuda13-0.32.0, vllm: 0.32.0}", "  - {pin: cuda128-0.19.1, vllm: 0.19.1}")


@dataclass(frozen=True)
class ProbedSite:
    """Everything that a probe has found. tests: the output of sbatch for each partition."""

    name: str
    host: str
    day: str
    facts: ClusterFacts
    choice: GpuRequestChoice
    tests: Mapping[str, str]

    @property
    def gpu_type(self) -> str:
        """The type of most GPUs."""
        counts = {p.gpu_types[0]: p.nodes * p.gpus for p in self.facts.gpu_partitions if p.gpu_types}
        return max(counts, key=lambda kind: counts[kind]) if counts else "gpu"

    @property
    def usable(self) -> Sequence[ProbedPartition]:
        """GPU partitions in which sbatch accepts a job: full ones before those for development and preemptible ones."""
        found = [p for p in self.facts.gpu_partitions if is_usable(p, self.tests)]
        return sorted(found, key=lambda p: (p.is_preemptible, bool(DEVEL.search(p.name)), -p.nodes * p.gpus))

    @property
    def cpu_partition(self) -> ProbedPartition | None:
        """Where downloads and builds can run."""
        return next((p for p in self.facts.cpu_partitions if is_usable(p, self.tests)), None)

    @property
    def container(self) -> str:
        """The container program that was found, or that modules have."""
        words = [*self.facts.containers, *(module.lower() for module in self.facts.modules)]
        return (
            "singularity" if not any("apptainer" in w for w in words) and "singularity" in str(words) else "apptainer"
        )


def render_site(site: ProbedSite) -> str:
    """Return the whole file. Programs of a cluster may colour what they print, and YAML has no control characters."""
    lines = [*_head(site), *_directories(site), *_slurm(site), *_images(site), *_partitions(site)]
    return "".join("".join(filter(str.isprintable, line)) + "\n" for line in lines)


def not_found(site: ProbedSite) -> Iterator[str]:
    """Yield what a person has to look up, a sentence each."""
    facts = site.facts
    if not facts.gpu_partitions:
        yield "no partition with GPUs: sinfo lists none, so launches will be refused until one is added"
    if facts.gpu_partitions and site.choice.style is None:
        yield "how to ask for GPUs: sbatch refused every way (the comments at gpu_request repeat it)"
    if not any(name in facts.containers for name in ("apptainer", "singularity")) and not facts.modules:
        other = f"; it has {', '.join(facts.containers)}, which cannot run the images" if facts.containers else ""
        yield f"Apptainer or Singularity: not on the login node's PATH, and no module has that name{other}"
    if not facts.directories:
        yield "your directory on project storage: set BOUCHET_PROJECT_DIR in .env"
    if not facts.quota:
        yield "a command that prints your quota (quota_command)"
    if site.cpu_partition is None:
        yield "a partition for jobs without GPUs: downloads run on the login node"
    if not facts.accounts:
        yield "your accounts: sacctmgr lists none"
    if not facts.reaches_hub:
        yield "the model hub: the login node did not reach huggingface.co; set download_proxy or hub_endpoint"
    if site.gpu_type not in _memory(site):
        yield f"the memory of {site.gpu_type} GPUs (gpu_memory_gib): launches are not checked without it"
    yield "prices (charge), the second factor (mfa) and limits of your group: look at the site's documentation"


def _head(site: ProbedSite) -> Iterator[str]:
    yield "# yaml-language-server: $schema=../schemas/site.schema.json"
    yield f"# {site.host}, from `bouchet site probe` on {site.day} ({site.facts.version}). Edit it: docs/sites.md."
    yield from (f"# Not found: {sentence}" for sentence in not_found(site))
    yield f"name: {site.name}"
    yield f"title: {site.host}"
    yield f"login: {{host: {site.host}}}"


def _directories(site: ProbedSite) -> Iterator[str]:
    found = ", ".join(site.facts.directories[:6])
    yield f'find_project: "{f"found on the login node: {found}" if found else "ask the site"}"'
    for field, folder in (("root", ""), ("models_dir", "/models"), ("images_dir", "/images")):
        yield f'{field}: "{{project}}/bouchet-llm{folder}"'
    yield 'scratch_dir: "{scratch}/bouchet-llm" # BOUCHET_SCRATCH_DIR, if you want to use it'
    caches = [path for path in site.facts.caches if re.match(r"^[A-Za-z0-9_./@+=-]+$", path)]
    if caches:
        yield f"models_dirs: [{', '.join(caches)}] # hub caches that exist: their models need no download"
    if site.facts.quota:
        yield f"quota_command: [{site.facts.quota}]"


def _slurm(site: ProbedSite) -> Iterator[str]:
    facts, choice = site.facts, site.choice
    if facts.slurm_dir:
        yield f"path: [{facts.slurm_dir}] # Slurm's programs are not on the PATH of a shell that ssh starts"
    if choice.account_required and len(facts.accounts) != 1:
        yield f"account: required # sbatch wants one; yours: {', '.join(facts.accounts)}"
    elif choice.account:
        yield f"account: {choice.account} # the only one that sacctmgr lists"
    yield from (f"# refused: {line}" for line in describe_refusals(choice.refusals))
    refused = "sbatch refused every way" if facts.gpu_partitions else "not tested: there are no GPUs"
    yield f"gpu_request: {choice.style or 'gpus'} # {'accepted by sbatch --test-only' if choice.style else refused}"
    yield f"gpu_type_requested: {str(choice.with_type).lower()}"
    yield f"gpu_type: {site.gpu_type}"
    yield f"gpu_memory_gib: {{{', '.join(f'{kind}: {size}' for kind, size in _memory(site).items())}}}"
    largest = max(facts.gpu_partitions, key=lambda p: p.nodes * p.gpus, default=None)
    if largest is not None:
        yield f"cpus_per_gpu: {max(largest.cpus // largest.gpus, 1)} # a node's CPUs by its GPUs"
        yield f"memory_per_gpu_gib: {max(int(largest.memory_gib * USABLE_MEMORY) // largest.gpus, 1)}"
    if re.match(r"^(aarch64|arm64)$", facts.machine):
        yield "cpu_arch: aarch64 # as on the login node"
    if facts.submit_plugins:
        yield f"# a job_submit plugin is active ({facts.submit_plugins}): it may change or refuse jobs"
    if facts.maintenance:
        yield f"maintenance: {facts.maintenance}"
    yield f'default_walltime: "0{DEFAULT_WALLTIME_H}:00:00"'
    cpu = site.cpu_partition
    yield f"cpu_partition: {cpu.name}" if cpu else "download_on: login"
    if facts.proxy.startswith("http"):
        yield f"download_proxy: {facts.proxy.rstrip('/')} # https_proxy on the login node"


def _images(site: ProbedSite) -> Iterator[str]:
    yield f"container: {site.container}"
    if not any(name in site.facts.containers for name in ("apptainer", "singularity")) and site.facts.modules:
        yield f"setup_lines: [module load {site.facts.modules[0].rstrip('/')}]"
    yield "default_image: cuda13-0.32.0 # needs driver 580 or newer; else cuda128-0.19.1"
    yield "images:"
    yield from IMAGES


def _partitions(site: ProbedSite) -> Iterator[str]:
    yield "partitions:"
    for partition in site.usable:
        yield from _partition(partition, site)
    for partition in (p for p in site.facts.gpu_partitions if p not in site.usable):
        yield f"  # {partition.name}: {refusal_of(site.tests.get(f'partition-{partition.name}', ''))}"
    cpu = site.cpu_partition
    if cpu is not None:
        yield from _partition(replace(cpu, gpus=0, gpu_types=(), max_gpus=0), site)
    elif not site.usable:
        yield from _partition(replace(site.facts.partitions[0], gpus=0, gpu_types=(), max_gpus=0), site)


def _partition(partition: ProbedPartition, site: ProbedSite) -> Iterator[str]:
    limit = LONGEST if partition.max_time in UNLIMITED else partition.max_time
    note = " # no limit in Slurm" if partition.max_time in UNLIMITED else ""
    yield f"  - name: {partition.name}"
    yield f'    max_walltime: "{limit}"{note}'
    numbers = {
        "max_gpus": partition.max_gpus,
        "max_cpus": partition.max_cpus,
        "max_running": partition.max_running,
        "max_submitted": partition.max_submitted,
        "group_max_gpus": partition.group_max_gpus,
    }
    yield from (f"    {name}: {number}" for name, number in numbers.items() if number is not None)
    if constraint := constraint_of(partition, site.tests):
        yield f"    constraint: {constraint} # sbatch wants a feature of the nodes named"
    if partition.gpu_types:
        yield f"    gpu_types: [{', '.join(partition.gpu_types)}]"
    if partition.nodes and partition.gpus:
        yield f"    nodes: {partition.nodes}"
    yield f"    gpus_per_node: {partition.gpus}"
    yield f"    cpus_per_node: {partition.cpus}"
    yield f"    memory_per_node_gib: {partition.memory_gib}"
    if partition.is_exclusive or (site.choice.style == "none" and partition.gpus):
        yield "    whole_node: true"
    if partition.is_preemptible:
        yield "    preemptible: true"
    elif partition.gpus:
        yield "    auto: true"
        if DEVEL.search(partition.name):
            yield "    auto_max_gpus: 1"


def _memory(site: ProbedSite) -> dict[str, float]:
    kinds = dict.fromkeys(kind for p in site.facts.gpu_partitions for kind in p.gpu_types)
    found = {}
    for kind in kinds:
        plain = re.sub(r"^(nvidia|tesla|geforce)_?", "", kind.lower())
        size = next((gib for name, gib in GPU_MEMORY.items() if plain.startswith(name)), None)
        if size is not None:
            found[kind] = 79.1 if plain.startswith("a100") and "80" in plain else size
    return found
