"""All that is needed to run a deployment again, by us or by hand: `bouchet status NAME --repro`. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from bouchet_cli.client.errors import NotReadyError
from bouchet_cli.client.records import Deployment, Json

from .deployment import tried_in_words
from .line import Line
from .preview import shell_line

LABEL = 10
HOW = {
    "manifest": "hashed whole when they were downloaded, unchanged since",
    "hub": "as the hub's cache names its files, by their hashes",
    "headers": "configuration, tokenizer and safetensors headers; the weights themselves were not hashed",
}
BY_HAND = (
    "# by hand, in an allocation like the one above; the job's key is not shown: any key of your own opens it",
    'scratch=$(mktemp -d); mkdir -p "$scratch/tmp" "$scratch/cache"',
    "export APPTAINERENV_VLLM_API_KEY=choose-one",
    # which GPUs is true of an allocation
    'if [ -n "${CUDA_VISIBLE_DEVICES-}" ]; then export APPTAINERENV_CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES; fi',
)


def repro(deployment: Deployment) -> dict[str, Any]:
    """What ran, for programs. NotReadyError where nothing has yet. It holds no key."""
    job = _job_that_ran(deployment)
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


def repro_lines(found: Json, now: datetime) -> Iterator[Line | str]:
    """The same for people: facts, then what to type."""
    yield Line(f"{found['name']} ({found['deployment']})", "bold")
    for label, text in _facts(found, now):
        yield Line(f"{label:{LABEL}}", "dim").append(text)
    yield from _part("the very same again, if all of it is still there")
    yield shlex.join(found["again"])
    if found["slurm"]["submission"]:
        yield from _part("as it was submitted")
        yield shell_line(list(found["slurm"]["submission"]))
    if found["container"]:
        yield from _part("as vLLM was started on its (first) node")
        yield from by_hand(found["container"], found["environment"])


def by_hand(container: Sequence[str], environment: Json) -> Iterator[str]:
    """Shell lines that start the same container; the job's own scratch folder becomes a new one."""
    binds = (word.removesuffix(":/bouchet/job") for word in container if word.endswith(":/bouchet/job"))
    scratch = next(binds, "")
    yield from BY_HAND
    for name, value in environment.items():
        if name != "CUDA_VISIBLE_DEVICES":
            yield f"export APPTAINERENV_{name}={shlex.quote(value)}"
    yield " \\\n    ".join(_with_scratch(word, scratch) for word in container)
    if "--port" in container:
        port = container[container.index("--port") + 1]
        yield "# when it listens, on that node:"
        yield f"#   curl -s http://127.0.0.1:{port}/v1/models -H 'Authorization: Bearer choose-one'"


def _with_scratch(word: str, scratch: str) -> str:
    if not scratch or not word.startswith(scratch):
        return shlex.quote(word)
    return f'"$scratch"{shlex.quote(word[len(scratch) :]) if word != scratch else ""}'


def _facts(found: Json, now: datetime) -> Iterator[tuple[str, str]]:
    yield "model", f"{found['model']}, commit {found['revision'] or 'unknown'}"
    weights = found["weights"]
    if weights:
        yield "weights", f"{weights['digest']} over {weights['files']} files, {weights['bytes']:,} bytes"
        yield "", HOW.get(weights["how"], weights["how"])
    image, software = found["image"], found["software"]
    yield "image", f"{image['file']}, sha256 {image['sha256']}"
    if image["recipe_sha256"]:
        yield "", f"recipe {image['recipe_sha256']}"
    known = ("vllm", "vLLM"), ("torch", "torch"), ("cuda", "CUDA"), ("python", "Python"), ("driver", "driver")
    yield "software", ", ".join(f"{word} {software[name]}" for name, word in known if software[name])
    yield "quant", found["quant"] or "unknown"
    yield "window", f"{found['window']} tokens"
    slurm = found["slurm"]
    gpus = f", {len(slurm['gpus'])} x {slurm['gpus'][0]} on a node" if slurm["gpus"] else ""
    yield "job", f"{slurm['job']} on {', '.join(slurm['nodes'])}{gpus}"
    if found["smoke"]:
        yield "tried", tried_in_words(found["smoke"])
    if found["kept_until"]:
        until = datetime.fromisoformat(found["kept_until"])
        gone = "are gone from the cluster since" if until < now else "stay on the cluster until"
        yield "files", f"the job's folder and log {gone} {until:%Y-%m-%d}; what stands here is on record"


def _part(title: str) -> Iterator[Line | str]:
    yield ""
    yield Line(f"# {title}", "bold")


def _job_that_ran(deployment: Deployment) -> Json:
    """The newest that started vLLM."""
    for job in reversed(deployment.raw.get("jobs") or ()):
        if job.get("image_sha256"):
            found: Json = job
            return found
    raise NotReadyError(f"{deployment.alias} has not started vLLM, so there is nothing to run again yet")
