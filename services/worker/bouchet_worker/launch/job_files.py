"""The files of a serving job: vLLM's arguments, spec.json, setup.sh, the key, and record.json."""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from bouchet_core.config.catalog import ModelEntry, names_parallel_sizes, parallel_of
from bouchet_core.config.site import Site, SiteImage
from bouchet_core.deployments import Deployment, LaunchRequest, Placement
from bouchet_core.errors import ConfigurationError
from pydantic import BaseModel, ConfigDict

from bouchet_worker.slurm.commands import warning_s

SPEC_VERSION = 1
KEY_FILE = "key"
# of the time between Slurm's signal and the end of the walltime, vLLM does not use this to finish open streams
SPARE_S = 20
# the worker parks a deployment that has a policy; the job's own watch ends it later, should the worker be gone
IDLE_SPARE_MIN = 15
# reserved, so that no host has it: vLLM takes an empty list for all domains
NO_DOMAIN = "none.invalid"


@dataclass(frozen=True)
class JobSpec:
    """All parameters of one serving job."""

    name: str
    model: str
    names: tuple[str, ...]
    deployment: str
    # context window in tokens
    window: int
    # what follows `vllm serve MODEL`, except host and port, which the job chooses
    arguments: tuple[str, ...]
    env: Mapping[str, str]
    placement: Placement
    image: SiteImage
    idle_timeout_min: int
    model_revision: str | None = None


class JobRecordFile(BaseModel):
    """record.json, which the job itself never reads: a lost record is rebuilt from it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    installation: str
    staged_at: datetime
    # as it was before sbatch, so its last job has no Slurm id
    deployment: Deployment


def next_job_name(deployment: Deployment) -> str:
    """Return a unique name for the deployment's next job: the record always keeps its last one."""
    last = max((int(job.name.rpartition("-")[2]) for job in deployment.jobs), default=0)
    return f"bouchet-{deployment.id}-{last + 1}"


def drain_s(placement: Placement) -> int:
    """Return how long vLLM may take after SIGTERM to finish open streams, in seconds."""
    return warning_s(placement.walltime_s) - SPARE_S


def make_spec(
    deployment: Deployment, name: str, entry: ModelEntry, placement: Placement, image: SiteImage, site: Site
) -> JobSpec:
    """Return the parameters of a deployment's job. Raises ConfigurationError when a value contains a line break."""
    request = deployment.request
    arguments = vllm_arguments(deployment.model, deployment.names, entry, request, placement)
    for value in (*arguments, *entry.env.values(), *site.setup_lines):
        if any(character in value for character in "\n\r\0"):
            raise ConfigurationError("models.yaml", f"{value!r} contains a line break, which a job cannot read")
    return JobSpec(
        name=name,
        model=deployment.model,
        names=deployment.names,
        deployment=deployment.id,
        window=context_window(entry, request),
        arguments=arguments,
        env=dict(entry.env),
        placement=placement,
        image=image,
        idle_timeout_min=_idle_timeout_min(deployment, site),
        model_revision=deployment.pins.model_revision if deployment.pins is not None else None,
    )


def _idle_timeout_min(deployment: Deployment, site: Site) -> int:
    """Return after how many minutes without a request the job ends itself; 0: never."""
    request = deployment.request
    limit = site.idle_timeout_min if request.idle_timeout_min is None else request.idle_timeout_min
    if not limit or not deployment.policy.is_managed:
        return limit
    return math.ceil(deployment.policy.idle_limit_s(limit * 60) / 60) + IDLE_SPARE_MIN


# vLLM's arguments


def context_window(entry: ModelEntry, request: LaunchRequest) -> int:
    """Return the context window in tokens."""
    return request.max_len or entry.window


def vllm_arguments(
    model: str, names: tuple[str, ...], entry: ModelEntry, request: LaunchRequest, placement: Placement
) -> tuple[str, ...]:
    """Return what follows `vllm serve MODEL`. The catalog's extra_args are near the end, so that they override."""
    return (
        *("--served-model-name", *dict.fromkeys((*names, model))),
        *("--max-model-len", str(context_window(entry, request))),
        *(
            ()
            if names_parallel_sizes(entry.extra_args)
            else parallel_of(entry, placement.gpus, placement.nodes).arguments
        ),
        *_quantization(model, entry, request),
        *_kv_cache_type(entry, request),
        *_parsers(entry),
        *(("--chat-template", entry.chat_template) if entry.chat_template else ()),
        "--enable-prompt-tokens-details",
        # the worker requests these every few seconds
        *("--disable-access-log-for-endpoints", "/health,/metrics"),
        # vLLM's own --api-key does not protect /invocations, /tokenize and /metrics
        *("--middleware", "guard.Guard"),
        *("--shutdown-timeout", str(drain_s(placement))),
        # a request may name an image by URL, which vLLM would fetch from within the cluster; images as data are taken
        *("--allowed-media-domains", NO_DOMAIN),
        *entry.extra_args,
        # the only executor of vLLM's that spans nodes, so it must override extra_args
        *(("--distributed-executor-backend", "mp") if placement.nodes > 1 else ()),
    )


def _quantization(model: str, entry: ModelEntry, request: LaunchRequest) -> tuple[str, ...]:
    """Return the option for FP8 at load, unless the checkpoint's name says FP8 (the job also checks config.json)."""
    quant = request.quant or entry.quant
    return ("--quantization", "fp8") if quant == "fp8" and "fp8" not in model.lower() else ()


def _kv_cache_type(entry: ModelEntry, request: LaunchRequest) -> tuple[str, ...]:
    """Return no option for `auto`: it is vLLM's default, and follows the checkpoint."""
    dtype = request.kv_cache_dtype or entry.kv_cache_dtype
    return () if dtype == "auto" else ("--kv-cache-dtype", dtype)


def _parsers(entry: ModelEntry) -> tuple[str, ...]:
    options: list[str] = []
    if entry.tool_parser:
        options += ["--enable-auto-tool-choice", "--tool-call-parser", entry.tool_parser]
    if entry.reasoning_parser:
        options += ["--reasoning-parser", entry.reasoning_parser]
    if entry.thinking == "off":
        options += ["--default-chat-template-kwargs", '{"enable_thinking": false}']
    return tuple(options)


# files


def render_files(spec: JobSpec, site: Site, key: str) -> dict[str, bytes]:
    """Return the files of the job's folder by name, without record.json."""
    return {
        "spec.json": _render_spec(spec, site),
        "vllm.args": "".join(f"{argument}\n" for argument in spec.arguments).encode(),
        "setup.sh": "".join(f"{line}\n" for line in site.setup_lines).encode(),
        KEY_FILE: f"{key}\n".encode(),
    }


def _render_spec(spec: JobSpec, site: Site) -> bytes:
    document = {
        "version": SPEC_VERSION,
        "job_name": spec.name,
        "deployment": spec.deployment,
        "model": spec.model,
        "model_revision": spec.model_revision,
        "names": list(spec.names),
        "window": spec.window,
        "gpus": spec.placement.gpus,
        "nodes": spec.placement.nodes,
        "env": dict(spec.env),
        "root": site.root,
        "models_dir": site.models_dir,
        "purge_days": site.scratch_purge_days if site.on_scratch(site.models_dir) else None,
        "image": posixpath.join(site.images_dir, f"{spec.image.pin}.sif"),
        "image_sha256": spec.image.sha256,
        "vllm": spec.image.vllm,
        "apptainer": site.apptainer,
        "idle_timeout_s": spec.idle_timeout_min * 60,
        "drain_s": drain_s(spec.placement),
        "listen": site.listen,
        **({"models_dirs": list(site.models_dirs)} if site.models_dirs else {}),
    }
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def render_record_file(deployment: Deployment, installation: str, staged_at: datetime) -> bytes:
    """Return record.json of a job that is about to be submitted."""
    record = JobRecordFile(installation=installation, staged_at=staged_at, deployment=deployment)
    return record.model_dump_json(indent=1).encode()
