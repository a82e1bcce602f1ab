"""The site file: everything that is true of one cluster and of no other (`sites/<name>.yaml`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from bouchet_core.values import FrozenModel, RemotePath, ShellWord, SingleLine, SlurmWord, Walltime

from .yaml_files import read_yaml

HubEndpoint = Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9][A-Za-z0-9.:_/-]*[A-Za-z0-9]$")]
# `network`: every address of the node; the others reach no further than the node itself
Listen = Literal["network", "loopback", "socket"]


class SiteLogin(FrozenModel):
    """Where SSH logs in. With `BOUCHET_HOST` set, that alias of ~/.ssh/config is used instead."""

    host: str
    port: int = Field(default=22, ge=1, le=65535)
    user: str | None = None


class Partition(FrozenModel):
    """One Slurm partition and its limits; None is no limit known."""

    name: SlurmWord
    max_walltime: Walltime
    max_gpus: int | None = Field(default=None, ge=0, description="GPUs one user may hold at a time")
    max_running: int | None = Field(default=None, ge=1, description="jobs of one user that may run at a time")
    max_submitted: int | None = Field(default=None, ge=1, description="jobs of one user that may be queued or running")
    max_cpus: int | None = Field(default=None, ge=1, description="CPUs one user may hold at a time")
    max_memory_gib: int | None = Field(default=None, ge=1, description="memory one user may hold at a time")
    group_max_gpus: int | None = Field(
        default=None, ge=0, description="GPUs the user's group may hold; said when a job waits"
    )
    gpu_types: tuple[SlurmWord, ...] = Field(default=(), description="what --gpus may name there; any when empty")
    gpus_per_node: int = Field(default=8, ge=0)
    nodes: int | None = Field(default=None, ge=1, description="nodes it has")
    cpus_per_node: int = Field(default=48, ge=1)
    memory_per_node_gib: int = Field(default=1900, ge=1)
    preemptible: bool = Field(default=False, description="its jobs may be stopped when others need the nodes")
    cost: str = Field(default="", description="what its use costs, in words; empty: nothing")
    account: SlurmWord | None = Field(default=None, description="account that must be named there")
    auto: bool = Field(
        default=False, description="whether placement may choose it unasked; the file's order is its preference"
    )
    auto_max_gpus: int | None = Field(default=None, description="choose it unasked only for so many GPUs or fewer")
    note: str = ""


class SiteImage(FrozenModel):
    """A pinned container image on the cluster."""

    pin: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    vllm: str
    sha256: str | None = Field(
        default=None, description="of the SIF; the file `<pin>.sif.sha256` beside it when absent"
    )


class Site(FrozenModel):
    """One cluster."""

    name: str
    title: str = ""
    login: SiteLogin
    root: RemotePath = Field(description="directory of ours on project storage: jobs, logs, caches, scripts")
    models_dir: RemotePath = Field(description="directory with one folder per model, or a hub cache")
    images_dir: RemotePath = Field(description="directory with <pin>.sif files")
    via: Literal["login", "node"] = Field(
        default="login", description="how vLLM is reached: from the login node, or over ssh to the compute node itself"
    )
    node_listens: Literal["socket", "loopback"] = Field(
        default="socket",
        description="with `via: node`, where vLLM listens: a UNIX socket that is the user's alone, or 127.0.0.1 there",
    )
    scratch_dir: RemotePath | None = None
    scratch_purge_days: int | None = Field(default=None, ge=1, description="files there are deleted after so many days")
    keep_jobs_days: int | None = Field(
        default=30, ge=1, description="folders and logs of jobs are removed so many days after their end; null: never"
    )
    apptainer: ShellWord = Field(default="apptainer", description="the program on the nodes: a name or a path")
    setup_lines: tuple[SingleLine, ...] = Field(
        default=(), description="shell lines before anything else in a job (modules)"
    )
    gpu_type: SlurmWord = "h200"
    gpu_memory_gib: Mapping[SlurmWord, float] = Field(
        default_factory=dict,
        description="memory of one GPU by type, as CUDA reports it; of a type not named, memory is not checked",
    )
    cpus_per_gpu: int = Field(default=6, ge=1)
    memory_per_gpu_gib: int = Field(default=240, ge=1, description="asked with --mem, times the GPUs")
    quota_command: tuple[ShellWord, ...] = Field(
        default=(), description="prints your quota on the login node, for the doctor"
    )
    default_walltime: Walltime = "06:00:00"
    idle_timeout_min: int = Field(default=45, ge=0)
    cpu_partition: SlurmWord | None = Field(default=None, description="where downloads and image builds run")
    build_dir: RemotePath | None = Field(
        default=None, description="folder of a node's own disk to build images in; its $TMPDIR or /tmp when absent"
    )
    staged_images: RemotePath | None = Field(
        default=None,
        description="where nodes have no network: directory with a folder a pin, which holds wheels/ and base.tar",
    )
    signing_key: str | None = Field(
        default=None,
        pattern=r"^[0-9A-Fa-f]{40}$",
        description="fingerprint of the PGP key in your Apptainer keyring there that signs images and must have",
    )
    download_on: Literal["job", "login"] = Field(
        default="job", description="job: in cpu_partition; login: on the login node, where only that reaches the hub"
    )
    hub_endpoint: HubEndpoint = Field(
        default="https://huggingface.co", description="where models come from; a mirror, perhaps"
    )
    quota_line: SingleLine | None = Field(
        default=None,
        description="a shell line that prints the bytes that may still be written below models_dir, alone on a line",
    )
    default_image: str = Field(description="pin used when the catalog names none")
    images: tuple[SiteImage, ...]
    partitions: tuple[Partition, ...] = Field(min_length=1)
    extra_models: str | None = Field(
        default=None, description="a further catalog beside this file, for this site alone"
    )
    default_model: str | None = None

    def partition(self, name: str) -> Partition | None:
        """The partition of that name."""
        return next((p for p in self.partitions if p.name == name), None)

    def image(self, pin: str) -> SiteImage | None:
        """The image of that pin."""
        return next((i for i in self.images if i.pin == pin), None)

    @property
    def listen(self) -> Listen:
        """Where the jobs' vLLM listens."""
        return self.node_listens if self.via == "node" else "network"

    def on_scratch(self, path: str) -> bool:
        """Whether it lies where files are deleted by age."""
        return self.scratch_dir is not None and f"{path}/".startswith(f"{self.scratch_dir.rstrip('/')}/")

    @property
    def allowed_roots(self) -> tuple[str, ...]:
        """Every directory on the cluster that bouchet-llm may touch."""
        return tuple(path for path in (self.root, self.models_dir, self.images_dir, self.scratch_dir) if path)


def load_site(path: Path) -> Site:
    """The site file; ConfigurationError names file and line of what is wrong."""
    return read_yaml(path, Site)


def catalogs_of(site_file: Path, site: Site, catalog: Path) -> tuple[Path, ...]:
    """The catalog files in force at a site: the project's, then the site's own."""
    return (catalog, site_file.parent / site.extra_models) if site.extra_models else (catalog,)
