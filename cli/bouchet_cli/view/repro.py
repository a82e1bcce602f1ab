"""Everything needed to run a deployment again, with bouchet or by hand: `bouchet status NAME --repro`. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from bouchet_cli.client.deployments import DeploymentInfo
from bouchet_cli.client.errors import NotReadyError
from bouchet_cli.client.http import Json

from .deployments import smoke_test_text
from .preview import section, shell_command
from .screen import StyledLine

LABEL_WIDTH = 10
# how the digest of the weights was made
DIGEST_SOURCE = {
    "manifest": "all files were hashed when they were downloaded, and have not changed since",
    "hub": "from the file hashes in the hub cache",
    "headers": "from configuration, tokenizer and safetensors headers; the weights themselves were not hashed",
}
SETUP_LINES = (
    "# by hand, in an allocation like the one above; use any key of your own, the job's key is secret",
    'scratch=$(mktemp -d); mkdir -p "$scratch/tmp" "$scratch/cache"',
    "export APPTAINERENV_VLLM_API_KEY=choose-one",
    # the new allocation decides which GPUs are used
    'if [ -n "${CUDA_VISIBLE_DEVICES-}" ]; then export APPTAINERENV_CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES; fi',
)


def repro(deployment: DeploymentInfo) -> dict[str, Any]:
    """Return what ran, for programs. It holds no key. Raises NotReadyError if vLLM was never started."""
    job = _started_job(deployment)
    software: Json = job.get("software") or {}
    return {
        "deployment": deployment.id,
        "name": deployment.alias,
        "model": deployment.model,
        "revision": job.get("model_revision"),
        "weights": job.get("weights"),
        "image": {
            "file": job.get("image"),
            "sha256": job.get("image_sha256"),
            "recipe_sha256": software.get("recipe_sha256"),
        },
        "software": {
            "vllm": job.get("vllm_version"),
            "torch": job.get("torch_version"),
            "cuda": software.get("cuda"),
            "python": software.get("python"),
            "driver": job.get("driver"),
        },
        "quant": software.get("quant"),
        "window": job.get("window"),
        "slurm": {
            "job": job.get("slurm_id"),
            "nodes": job.get("nodes") or [name for name in [job.get("node")] if name],
            "gpus": job.get("gpus") or [],
            "placement": job.get("placement"),
            "submission": job.get("submission") or [],
        },
        "command": job.get("command") or [],
        "container": software.get("container") or [],
        "environment": software.get("environment") or {},
        "catalog_entry": deployment.raw.get("entry") or {},
        "smoke": job.get("smoke"),
        "kept_until": job.get("kept_until"),
        "again": ["bouchet", "launch", "--like", deployment.id],
    }


def repro_lines(found: Json, now: datetime) -> Iterator[StyledLine | str]:
    """Yield the same for people: facts, then commands to paste."""
    yield StyledLine(f"{found['name']} ({found['deployment']})", "bold")
    for label, text in _facts(found, now):
        # a line break in what the cluster reports must not begin a line of its own above the commands
        yield StyledLine(f"{label:{LABEL_WIDTH}}", "dim").append(" ".join(text.split()))
    yield from section("relaunch with the same image, revision, arguments and resources")
    yield shlex.join(found["again"])
    if found["slurm"]["submission"]:
        yield from section("how the job was submitted")
        yield shell_command(list(found["slurm"]["submission"]))
    if found["container"]:
        yield from section("how vLLM was started on its (first) node")
        yield from container_lines(found["container"], found["environment"])


def container_lines(container: Sequence[str], environment: Json) -> Iterator[str]:
    """Yield shell lines that start the same container, with a new scratch folder in place of the job's."""
    binds = (argument.removesuffix(":/bouchet/job") for argument in container if argument.endswith(":/bouchet/job"))
    scratch = next(binds, "")
    yield from SETUP_LINES
    for name, value in environment.items():
        if name != "CUDA_VISIBLE_DEVICES":
            yield f"export {shlex.quote(f'APPTAINERENV_{name}')}={shlex.quote(value)}"
    yield " \\\n    ".join(_with_scratch(argument, scratch) for argument in container)
    port = next((after for option, after in pairwise(container) if option == "--port"), "")
    if port.isdecimal():
        yield "# when it is listening, on the same node:"
        yield f"#   curl -s http://127.0.0.1:{port}/v1/models -H 'Authorization: Bearer choose-one'"


def _with_scratch(argument: str, scratch: str) -> str:
    if not scratch or not argument.startswith(scratch):
        return shlex.quote(argument)
    return f'"$scratch"{shlex.quote(argument[len(scratch) :]) if argument != scratch else ""}'


def _facts(found: Json, now: datetime) -> Iterator[tuple[str, str]]:
    yield "model", f"{found['model']}, commit {found['revision'] or 'unknown'}"
    weights = found["weights"]
    if weights:
        yield "weights", f"digest {weights['digest']} of {weights['files']} files, {weights['bytes']:,} bytes"
        yield "", DIGEST_SOURCE.get(weights["how"], weights["how"])
    image, software = found["image"], found["software"]
    yield "image", f"{image['file']}, sha256 {image['sha256']}"
    if image["recipe_sha256"]:
        yield "", f"recipe {image['recipe_sha256']}"
    known = ("vllm", "vLLM"), ("torch", "torch"), ("cuda", "CUDA"), ("python", "Python"), ("driver", "driver")
    yield "software", ", ".join(f"{label} {software[name]}" for name, label in known if software[name])
    yield "quant", found["quant"] or "unknown"
    yield "window", f"{found['window']} tokens"
    slurm = found["slurm"]
    gpus = f", {len(slurm['gpus'])} x {slurm['gpus'][0]} per node" if slurm["gpus"] else ""
    yield "job", f"{slurm['job']} on {', '.join(slurm['nodes'])}{gpus}"
    if found["smoke"]:
        yield "checks", smoke_test_text(found["smoke"])
    if found["kept_until"]:
        until = datetime.fromisoformat(found["kept_until"])
        kept = "were deleted from the cluster on" if until < now else "are kept on the cluster until"
        yield "files", f"the job's folder and log {kept} {until:%Y-%m-%d}; this record is kept locally"


def _started_job(deployment: DeploymentInfo) -> Json:
    """Return the newest job that started vLLM."""
    for job in reversed(deployment.raw.get("jobs") or ()):
        if job.get("image_sha256"):
            found: Json = job
            return found
    raise NotReadyError(f"{deployment.alias} never started vLLM, so there is nothing to reproduce")
