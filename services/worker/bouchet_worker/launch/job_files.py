"""What lies on the cluster and under which name, and what goes into a job's files. The one place that knows file names.

<root>/remote/<hash>/            job scripts: our scripts, one folder per content
<root>/jobs/<job name>/          spec.json, vllm.args (one argument a line), setup.sh, key; all 0600. record.json: the
                                 deployment, to make its record again from. For how long: tidying.py
<root>/logs/<job id>.log         what the job prints, vLLM's log included
<root>/logs/connection-<job id>.json   where its vLLM listens (written by the job)
<root>/logs/end-<job id>.json    why it ended (written by the job)
<root>/cache/<SIF hash>/<model>-<nodes>x<GPUs>/   compiled kernels in layers, as jobs leave them (kernel_cache.py)
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bouchet_core.config.catalog import ModelEntry
from bouchet_core.config.parallel import names_sizes, parallel_of
from bouchet_core.config.site import Site, SiteImage
from bouchet_core.deployments import Deployment, LaunchRequest, Placement
from bouchet_core.errors import ConfigurationError

SPEC_VERSION = 1
SCRIPT = "vllm-serve.sbatch"
# of remote/: where the scripts run, and what several of them import; on the cluster they are in one folder
SCRIPT_FOLDERS = ("job", "batch", "login", "shared")
SCRIPT_SUFFIXES = (".py", ".sh", ".sbatch")
# a file of the job scripts that is put last: where it lies, the rest lies too
COMPLETE_MARKER = "complete"
# vLLM finishes the streams under way this long after SIGTERM; the job hears of its end 120 s before
DRAIN_S = 100
_LOGS_README = "Logs of bouchet-llm's jobs. Those of ended jobs may be deleted.\n"


@dataclass(frozen=True)
class Layout:
    """Every path of ours below `root`, which may begin with `~/`."""

    root: str

    def scripts(self, digest: str) -> str:
        """The folder of our scripts with that content."""
        return posixpath.join(self.root, "remote", digest)

    def job(self, name: str) -> str:
        """The folder of one job's own files."""
        return posixpath.join(self.root, "jobs", name)

    def record(self, name: str) -> str:
        """What its deployment was when that job was submitted."""
        return posixpath.join(self.root, "jobs", name, "record.json")

    def log(self, job_id: int | str) -> str:
        """What the job prints; `%j` for sbatch."""
        return posixpath.join(self.root, "logs", f"{job_id}.log")

    def connection(self, job_id: int) -> str:
        """Where the job says where its vLLM listens."""
        return posixpath.join(self.root, "logs", f"connection-{job_id}.json")

    def end(self, job_id: int) -> str:
        """Where the job says why it ended."""
        return posixpath.join(self.root, "logs", f"end-{job_id}.json")

    def logs_readme(self) -> str:
        """A file that makes the folder of the logs: Slurm fails a job whose output has no folder."""
        return posixpath.join(self.root, "logs", "README")


@dataclass(frozen=True)
class ScriptBundle:
    """Our scripts for the cluster, by name. Their content names their folder, so versions live side by side."""

    files: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """12 hex characters over names and contents."""
        whole = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            whole.update(f"{name} {len(content)}\n".encode() + content)
        return whole.hexdigest()[:12]


def load_scripts(directory: Path) -> ScriptBundle:
    """Read the job scripts of all sub-folders by base name. ConfigurationError when a folder or file cannot be read."""
    try:
        folders = [sorted((directory / name).iterdir()) for name in SCRIPT_FOLDERS]
        paths = [path for folder in folders for path in folder if path.suffix in SCRIPT_SUFFIXES]
        return ScriptBundle({path.name: path.read_bytes() for path in paths})
    except OSError as exc:
        raise ConfigurationError(str(exc.filename), f"cannot be read: {exc.strerror}; build the images again") from exc


def job_name(deployment: Deployment) -> str:
    """A name that no other job has: the deployment's next attempt."""
    return f"bouchet-{deployment.id}-{len(deployment.jobs) + 1}"


def window_of(entry: ModelEntry, request: LaunchRequest) -> int:
    """Context window in tokens."""
    return request.max_len or entry.window


def vllm_arguments(
    model: str, names: tuple[str, ...], entry: ModelEntry, request: LaunchRequest, placement: Placement
) -> tuple[str, ...]:
    """What follows `vllm serve MODEL`, except host and port, which the job chooses. The catalog's words come last."""
    return (
        *("--served-model-name", *dict.fromkeys((*names, model))),
        *("--max-model-len", str(window_of(entry, request))),
        *(() if names_sizes(entry.extra_args) else parallel_of(entry, placement.gpus, placement.nodes).arguments),
        *_quantization(model, entry, request),
        *_cache_type(entry, request),
        *_parsers(entry),
        *(("--chat-template", entry.chat_template) if entry.chat_template else ()),
        "--enable-prompt-tokens-details",
        # asked every few seconds by us
        *("--disable-access-log-for-endpoints", "/health,/metrics"),
        # vLLM's own --api-key leaves /invocations, /tokenize and /metrics open
        *("--middleware", "guard.Guard"),
        *("--shutdown-timeout", str(DRAIN_S)),
        *entry.extra_args,
        # last, so that it wins: only this executor of vLLM's spans nodes
        *(("--distributed-executor-backend", "mp") if placement.nodes > 1 else ()),
    )


def _quantization(model: str, entry: ModelEntry, request: LaunchRequest) -> tuple[str, ...]:
    """fp8 at load, unless the checkpoint's name says that it is FP8 already (the job asks its config.json as well)."""
    quant = request.quant or entry.quant
    return ("--quantization", "fp8") if quant == "fp8" and "fp8" not in model.lower() else ()


def _cache_type(entry: ModelEntry, request: LaunchRequest) -> tuple[str, ...]:
    """`auto` is vLLM's own default, and follows the checkpoint."""
    wanted = request.kv_cache_dtype or entry.kv_cache_dtype
    return () if wanted == "auto" else ("--kv-cache-dtype", wanted)


def _parsers(entry: ModelEntry) -> tuple[str, ...]:
    words: list[str] = []
    if entry.tool_parser:
        words += ["--enable-auto-tool-choice", "--tool-call-parser", entry.tool_parser]
    if entry.reasoning_parser:
        words += ["--reasoning-parser", entry.reasoning_parser]
    if entry.thinking == "off":
        words += ["--default-chat-template-kwargs", '{"enable_thinking": false}']
    return tuple(words)


@dataclass(frozen=True)
class JobSpec:
    """Everything one job has to know, as its files will say it."""

    name: str
    model: str
    names: tuple[str, ...]
    deployment: str
    window: int
    arguments: tuple[str, ...]
    env: Mapping[str, str]
    placement: Placement
    image: SiteImage
    idle_timeout_min: int
    model_revision: str | None = None


def spec_for(
    deployment: Deployment, name: str, entry: ModelEntry, placement: Placement, image: SiteImage, site: Site
) -> JobSpec:
    """The next job of that deployment. ConfigurationError when a value cannot travel one a line."""
    request = deployment.request
    arguments = vllm_arguments(deployment.model, deployment.names, entry, request, placement)
    idle = site.idle_timeout_min if request.idle_timeout_min is None else request.idle_timeout_min
    for word in (*arguments, *entry.env.values(), *site.setup_lines):
        if any(character in word for character in "\n\r\0"):
            raise ConfigurationError("models.yaml", f"{word!r} holds a line break; job parameters travel one a line")
    return JobSpec(
        name=name,
        model=deployment.model,
        names=deployment.names,
        deployment=deployment.id,
        window=window_of(entry, request),
        arguments=arguments,
        env=dict(entry.env),
        placement=placement,
        image=image,
        idle_timeout_min=idle,
        model_revision=deployment.pins.model_revision if deployment.pins is not None else None,
    )


def render_files(spec: JobSpec, site: Site, key: str) -> dict[str, bytes]:
    """The files of the job's folder, by name."""
    return {
        "spec.json": _render_spec(spec, site),
        "vllm.args": "".join(f"{word}\n" for word in spec.arguments).encode(),
        "setup.sh": "".join(f"{line}\n" for line in site.setup_lines).encode(),
        "key": f"{key}\n".encode(),
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
        "drain_s": DRAIN_S,
        "listen": site.listen,
    }
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def logs_readme() -> bytes:
    """What stands in the file that makes the folder of the logs."""
    return _LOGS_README.encode()
