"""The site file: the settings of one cluster (`sites/<name>.yaml`)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from bouchet_core.errors import ConfigurationError, LaunchRefusedError
from bouchet_core.values import (
    CpuArch,
    FrozenModel,
    GpuRequest,
    RemotePath,
    ShellWord,
    SingleLine,
    SlurmWord,
    Walltime,
    pin_arch,
)

from .catalog import ADDED_SUFFIX
from .yaml_files import read_yaml

HubEndpoint = Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9][A-Za-z0-9.:_/-]*[A-Za-z0-9]$")]
Hostname = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")]
# network: all addresses of the node; loopback and socket are reachable from the node only
Listen = Literal["network", "loopback", "socket"]


CONTAINERS = ("apptainer", "singularity")
# an account that has to be named
REQUIRED = "required"
DIRECTORY_FIELDS = ("root", "models_dir", "images_dir", "scratch_dir")


class SiteLogin(FrozenModel):
    """The login node. If `BOUCHET_HOST` is set, that alias of ~/.ssh/config is used instead."""

    host: str
    port: int = Field(default=22, ge=1, le=65535)
    user: str | None = None


class Partition(FrozenModel):
    """One Slurm partition and its limits; None: no known limit."""

    name: SlurmWord
    max_walltime: Walltime
    max_gpus: int | None = Field(default=None, ge=0, description="GPUs that one user may use at a time")
    max_running: int | None = Field(default=None, ge=1, description="running jobs of one user")
    max_submitted: int | None = Field(default=None, ge=1, description="queued and running jobs of one user")
    max_cpus: int | None = Field(default=None, ge=1, description="CPUs that one user may use at a time")
    max_memory_gib: int | None = Field(default=None, ge=1, description="memory in GiB that one user may use at a time")
    group_max_gpus: int | None = Field(
        default=None, ge=0, description="GPUs that the user's group may use; shown when a job waits"
    )
    gpu_types: tuple[SlurmWord, ...] = Field(default=(), description="GPU types that --gpus may name; empty: any")
    gpus_per_node: int = Field(default=8, ge=0)
    nodes: int | None = Field(default=None, ge=1, description="number of nodes")
    cpus_per_node: int = Field(default=48, ge=1)
    memory_per_node_gib: int = Field(default=1900, ge=1)
    preemptible: bool = Field(default=False, description="its jobs may be stopped when others need the nodes")
    cost: str = Field(default="", description="what its use costs, as text; empty: nothing")
    charge: float | None = Field(
        default=None, ge=0, description="units charged per GPU hour; if absent, the site's charge for the GPU type"
    )
    account: SlurmWord | None = Field(default=None, description="account to submit with")
    qos: SlurmWord | None = Field(default=None, description="QOS to submit with, unless the launch names one")
    constraint: SlurmWord | None = Field(
        default=None, description="features of nodes to ask for, unless the launch names some"
    )
    whole_node: bool = Field(
        default=False, description="its jobs get whole nodes, so that no CPUs and no memory are asked for"
    )
    auto: bool = Field(
        default=False, description="whether it may be selected automatically; earlier partitions are preferred"
    )
    auto_max_gpus: int | None = Field(
        default=None, description="select it automatically for at most this number of GPUs"
    )
    note: str = ""


class SiteImage(FrozenModel):
    """A pinned container image on the cluster."""

    pin: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    vllm: str
    sha256: str | None = Field(
        default=None, description="hash of the SIF; if absent, that in `<pin>.sif.sha256` next to it"
    )

    @property
    def arch(self) -> CpuArch:
        """The CPU type that the image is made for, which its name says."""
        return pin_arch(self.pin)


class Site(FrozenModel):
    """One cluster."""

    name: str
    title: str = ""
    login: SiteLogin
    find_project: SingleLine | None = Field(
        default=None, description="how a person finds the directory for BOUCHET_PROJECT_DIR; shown where it is not set"
    )
    root: RemotePath = Field(description="directory on project storage for jobs, logs, caches and scripts")
    models_dir: RemotePath = Field(description="directory with one folder for each model, or a Hugging Face hub cache")
    models_dirs: tuple[RemotePath, ...] = Field(
        default=(), description="further directories with models, only read: a group's folder, an existing hub cache"
    )
    downloads_for: Literal["me", "group"] = Field(
        default="me", description="who may read downloaded models: only you, or your group"
    )
    images_dir: RemotePath = Field(description="directory with <pin>.sif files")
    via: Literal["login", "node"] = Field(
        default="login", description="how vLLM is reached: from the login node, or over ssh to the compute node"
    )
    node_listens: Literal["socket", "loopback"] = Field(
        default="socket",
        description="with `via: node`, where vLLM listens: a UNIX socket of the user, or 127.0.0.1 there",
    )
    attach_hosts: tuple[Hostname, ...] = Field(
        default=(),
        description="hosts beside Slurm's nodes on which `bouchet attach` accepts servers, such as the centre's own",
    )
    scratch_dir: RemotePath | None = None
    scratch_purge_days: int | None = Field(
        default=None, ge=1, description="age in days at which the site deletes files there"
    )
    keep_jobs_days: int | None = Field(
        default=30, ge=1, description="days after a job's end at which its folder and log are removed; null: never"
    )
    path: tuple[RemotePath, ...] = Field(
        default=(), description="folders on the login node that are put before the PATH, where Slurm's programs are"
    )
    command_prefix: tuple[ShellWord, ...] = Field(
        default=(), description="words before each of Slurm's programs on the login node, such as a wrapper"
    )
    apptainer: ShellWord = Field(
        default="apptainer", description="the Apptainer or Singularity program on the nodes: a name or a path"
    )
    setup_lines: tuple[SingleLine, ...] = Field(
        default=(), description="shell lines at the start of a job, such as `module load`"
    )
    account: SlurmWord | None = Field(
        default=None,
        description="account to submit with; `required`: everybody has another one, so a launch must name it",
    )
    cpu_arch: CpuArch = Field(default="x86_64", description="of the GPU nodes")
    container: str = Field(default="apptainer", description="the container program of the site: apptainer, singularity")
    gpu_request: GpuRequest = Field(
        default="gpus", description="how a job asks for GPUs: the option that this site's Slurm accepts"
    )
    gpu_type_requested: bool = Field(
        default=True, description="whether the request names the GPU type, such as `--gpus=h200:1`"
    )
    gpu_type: SlurmWord = "h200"
    gpu_memory_gib: Mapping[SlurmWord, float] = Field(
        default_factory=dict,
        description="memory of one GPU in GiB by type, as CUDA reports it; memory is not checked for other types",
    )
    charge: Mapping[SlurmWord, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="units that the site charges per GPU hour, by GPU type"
    )
    charge_unit: SingleLine = Field(default="SU", description="the unit of charge")
    unit_price: float | None = Field(default=None, ge=0, description="what one unit of charge costs in money")
    currency: SingleLine = Field(default="USD", description="the money that unit_price is in")
    cpus_per_gpu: int = Field(default=6, ge=1)
    memory_per_gpu_gib: int = Field(default=240, ge=1, description="requested with --mem for each GPU")
    mfa: SingleLine | None = Field(
        default=None, description="what a login asks for besides the key, such as `Duo`; shown by `bouchet setup`"
    )
    key_passphrase: Literal["required"] | None = Field(
        default=None, description="`required` where the site forbids keys without one; `bouchet setup` warns of them"
    )
    maintenance: SingleLine | None = Field(
        default=None, description="when the cluster is closed, as text; shown by `bouchet setup`"
    )
    quota_command: tuple[ShellWord, ...] = Field(
        default=(),
        description="program and arguments that print your storage quota; for the doctor, and before a download",
    )
    download_proxy: HubEndpoint | None = Field(
        default=None, description="HTTP proxy for downloads and image builds, where nodes reach the internet by one"
    )
    default_walltime: Walltime = "06:00:00"
    idle_timeout_min: int = Field(default=45, ge=0)
    cpu_partition: SlurmWord | None = Field(default=None, description="where downloads and image builds run")
    build_dir: RemotePath | None = Field(
        default=None, description="folder on a node's local disk for image builds; if absent, its $TMPDIR or /tmp"
    )
    staged_images: RemotePath | None = Field(
        default=None,
        description="for nodes without network: directory with a folder for each pin, with wheels/ and base.tar",
    )
    signing_key: str | None = Field(
        default=None,
        pattern=r"^[0-9A-Fa-f]{40}$",
        description="fingerprint of the PGP key, in your Apptainer keyring there, that signs and verifies images",
    )
    download_on: Literal["job", "login"] = Field(
        default="job", description="job: in cpu_partition; login: on the login node, if only that has access to the hub"
    )
    hub_endpoint: HubEndpoint = Field(default="https://huggingface.co", description="the Hugging Face hub or a mirror")
    default_image: str = Field(description="pin for models whose catalog entry has none")
    images: tuple[SiteImage, ...]
    partitions: tuple[Partition, ...] = Field(min_length=1)
    extra_models: str | None = Field(default=None, description="another catalog next to this file, for this site only")
    default_model: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _container_program(cls, data: object) -> object:
        """Make the container's name its program where the file names none."""
        return {"apptainer": data["container"], **data} if isinstance(data, dict) and "container" in data else data

    @field_validator("container")
    @classmethod
    def _known_container(cls, name: str) -> str:
        if name not in CONTAINERS:
            raise ValueError(
                f"{name} is not supported: jobs run SIF images with apptainer or singularity; ask the site whether it "
                "has one of them, often as a module"
            )
        return name

    def account_for(self, partition: str) -> str | None:
        """Return the account to submit with there; None for the user's default one.

        Raises LaunchRefusedError where the site wants one to be named.
        """
        found = self.partition(partition)
        account = (found.account if found else None) or self.account
        if account == REQUIRED:
            raise LaunchRefusedError(
                f"{self.title or self.name} accepts no job without an account: use --account NAME, or write "
                "`account: NAME` into the site file (`sacctmgr show assoc user=$USER` on the cluster lists yours)"
            )
        return account

    @property
    def batch_setup_lines(self) -> tuple[str, ...]:
        """Shell lines at the start of downloads and image builds."""
        names = ("https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY") if self.download_proxy else ()
        return (*self.setup_lines, *(f"export {name}={self.download_proxy}" for name in names))

    def partition(self, name: str) -> Partition | None:
        """Return the partition of that name, None if there is none."""
        return next((p for p in self.partitions if p.name == name), None)

    def image(self, pin: str) -> SiteImage | None:
        """Return the image of that pin, None if there is none."""
        return next((i for i in self.images if i.pin == pin), None)

    def charge_per_gpu_hour(self, partition: str, gpu_type: str) -> float | None:
        """Return the units charged for an hour of one GPU there, 0 where it is free, None where it is not known."""
        found = self.partition(partition)
        if found is not None and found.charge is not None:
            return found.charge
        return self.charge.get(gpu_type)

    def money(self, charge: float | None) -> str:
        """Return what that many units of charge cost, empty where they have no price."""
        if charge is None or self.unit_price is None:
            return ""
        return f"{charge * self.unit_price:,.2f} {self.currency}"

    @property
    def listen(self) -> Listen:
        """Where vLLM listens in jobs."""
        return self.node_listens if self.via == "node" else "network"

    def on_scratch(self, path: str) -> bool:
        """Return whether the path is below scratch_dir, where the site deletes old files."""
        return self.scratch_dir is not None and f"{path}/".startswith(f"{self.scratch_dir.rstrip('/')}/")

    @property
    def allowed_roots(self) -> tuple[str, ...]:
        """Every directory on the cluster that bouchet-llm may use."""
        own = (self.root, self.models_dir, *self.models_dirs, self.images_dir, self.scratch_dir)
        return tuple(path for path in own if path)


def load_site(path: Path, environ: Mapping[str, str] | None = None) -> Site:
    """Read a site file; ConfigurationError has file and line of a mistake.

    environ: where BOUCHET_PROJECT_DIR and BOUCHET_SCRATCH_DIR are, for directories that everybody has another of;
    this process's environment if None.
    """
    return read_yaml(path, Site, lambda data: _with_directories(data, path, os.environ if environ is None else environ))


def _with_directories(data: object, path: Path, environ: Mapping[str, str]) -> object:
    """Return the site file with the person's own directories in place of `{project}` and `{scratch}`."""
    if not isinstance(data, dict):
        return data
    filled = dict(data)
    for field in DIRECTORY_FIELDS:
        value = data.get(field)
        found = re.match(r"\{(project|scratch)\}", value) if isinstance(value, str) else None
        if not found:
            continue
        variable = f"BOUCHET_{found[1].upper()}_DIR"
        directory = environ.get(variable, "").rstrip("/")
        if directory:
            filled[field] = directory + str(value)[found.end() :]
        elif field == "scratch_dir":
            del filled[field]
        else:
            where = data.get("find_project") or "ask the site, or look at its documentation"
            raise ConfigurationError(
                str(path), f"{field} is in your own {found[1]} directory: set {variable} in .env ({where})"
            )
    return filled


def catalogs_of(site_file: Path, site: Site, catalog: Path) -> tuple[Path, ...]:
    """Return the catalog files of a site: the project's, the site's own, and that of `bouchet models add`."""
    extra = (site_file.parent / site.extra_models,) if site.extra_models else ()
    return (catalog, *extra, site_file.with_name(site_file.stem + ADDED_SUFFIX))
