"""Checks before submission: the model is on the cluster, it fits the GPUs, and a relaunch finds what it needs."""

from __future__ import annotations

import json
import logging
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bouchet_core.batch_jobs import DiskListing, DiskModel
from bouchet_core.config.catalog import ModelEntry, parallel_of
from bouchet_core.config.site import Site
from bouchet_core.deployments import Deployment, MemoryEstimate
from bouchet_core.errors import BouchetError, GatewayError, LaunchRefusedError, RemoteFileMissingError
from bouchet_core.provenance import LaunchPins
from bouchet_core.tunnel import TunnelState

from bouchet_worker.context import WorkerContext
from bouchet_worker.memory.architecture import parse_architecture
from bouchet_worker.memory.estimate import ModelDescription, estimate_memory
from bouchet_worker.memory.vllm_args import parse_vllm_args
from bouchet_worker.memory.weights import TensorGroup
from bouchet_worker.scripts import output_errors_mapped, run_script

from .job_files import JobSpec

log = logging.getLogger(__name__)

LIST_SCRIPT = "list_models.py"
LIST_TIMEOUT_S = 30.0
# a launch accepts a listing of this age as proof that its model is there
FRESH = timedelta(minutes=10)


def list_models(context: WorkerContext) -> str:
    """Store which models are on the cluster; return a short result for the log.

    While the tunnel is down, nothing is queried and the stored listing stays.
    """
    try:
        if context.gateway.status().state is not TunnelState.UP:
            return "the tunnel is down"
        listing = list_on_cluster(context)
    except BouchetError as exc:
        log.warning("could not list the models on the cluster: %s", exc)
        return "could not list the models"
    context.store.downloads.keep_disk(listing)
    return f"{len(listing.models)} models"


def check_model_present(context: WorkerContext, model: str) -> None:
    """Raise LaunchRefusedError when the model is not completely on the cluster. A failed listing blocks nothing."""
    listing = context.store.downloads.disk()
    if listing is None or context.now() - listing.listed_at > FRESH or listing.of(model).state != "ready":
        try:
            listing = list_on_cluster(context)
        except GatewayError as exc:
            log.info("could not check whether %s is on the cluster: %s", model, exc)
            return
        context.store.downloads.keep_disk(listing)
    found = listing.of(model)
    if found.state == "partial":
        part = f"{found.percent} %" if found.percent is not None else "a part"
        raise LaunchRefusedError(f"only {part} of {model} is downloaded; run `bouchet download {model}` to resume")
    if found.state == "missing":
        raise LaunchRefusedError(f"{model} is not on the cluster; run `bouchet download {model}` first")


def check_image_present(context: WorkerContext, pin: str) -> None:
    """Raise LaunchRefusedError when the image is not on the cluster. What cannot be asked blocks nothing."""
    try:
        context.gateway.get(f"{context.site.images_dir}/{pin}.sif", max_bytes=1)
    except RemoteFileMissingError as exc:
        raise LaunchRefusedError(
            f"the image {pin} is not on the cluster: run `bouchet image build {pin}` first, which takes some minutes"
        ) from exc
    except GatewayError as exc:
        log.info("could not check whether the image %s is on the cluster: %s", pin, exc)


def list_on_cluster(context: WorkerContext) -> DiskListing:
    """Return which models are on the cluster now. Raises GatewayError."""
    site = context.site
    folders = (site.models_dir, *site.models_dirs)
    output = run_script(context, LIST_SCRIPT, site.root, *folders, timeout_s=LIST_TIMEOUT_S)
    with output_errors_mapped(LIST_SCRIPT, output):
        return parse_listing(output, context.now())


def parse_listing(output: Mapping[str, Any], now: datetime) -> DiskListing:
    """Parse what list_models.py prints. Raises ValueError, KeyError or TypeError for other forms."""
    models = {name: _disk_model(row) for name, row in output["models"].items()}
    return DiskListing(models=models, free_bytes=output.get("free_bytes"), listed_at=now)


def _disk_model(row: Mapping[str, Any]) -> DiskModel:
    used = row.get("last_used")
    return DiskModel(
        state=row["state"],
        bytes=row["bytes"],
        total_bytes=row.get("total_bytes"),
        revision=row.get("revision"),
        last_used=datetime.fromtimestamp(used, UTC) if used else None,
        shared=str(row.get("shared") or ""),
    )


log = logging.getLogger(__name__)

INSPECT_SCRIPT = "inspect_model.py"
# image pins of this prefix serve without a GPU
CPU_PIN_PREFIX = "cpu-"


def estimate_for(context: WorkerContext, entry: ModelEntry, spec: JobSpec) -> MemoryEstimate:
    """Estimate the memory of that job. Raises LaunchRefusedError where it cannot fit.

    Where the model's files cannot be read, the catalog's figures are used, and nothing is refused without any.
    """
    placement = spec.placement
    cpu = placement.gpus == 0 or spec.image.pin.startswith(CPU_PIN_PREFIX)
    parallel = parallel_of(entry, placement.gpus, placement.nodes)
    args = parse_vllm_args(spec.arguments, entry.env, spec.window, parallel, cpu=cpu)
    gpu_gib = None if cpu else context.site.gpu_memory_gib.get(placement.gpu_type)
    host_gib = placement.memory_gib if cpu else None
    most = _max_gpus(context.site, placement.nodes)
    return estimate_memory(_inspect(context, spec.model, entry), args, gpu_gib, host_gib, most)


def _max_gpus(site: Site, nodes: int) -> int:
    """Return how many GPUs a job on that number of nodes can have in any partition."""
    limits = [(p.gpus_per_node * nodes, p.max_gpus) for p in site.partitions]
    return max((gpus if most is None else min(gpus, most) for gpus, most in limits), default=0)


def _inspect(context: WorkerContext, name: str, entry: ModelEntry) -> ModelDescription:
    from_catalog = ModelDescription(entry.alias, catalog_gib=entry.weights_gib, source="the catalog")
    try:
        return parse_inspection(_run_inspection(context, name), from_catalog)
    except GatewayError as exc:
        log.info("could not inspect the files of %s: %s", name, exc)
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as exc:
        log.warning("cannot read the output of %s for %s: %r", INSPECT_SCRIPT, name, exc)
    return from_catalog


def _run_inspection(context: WorkerContext, name: str) -> Mapping[str, Any]:
    """Return the script's output; only config.json where no script is on the cluster yet, as in a first preview."""
    try:
        site = context.site
        return run_script(context, INSPECT_SCRIPT, site.models_dir, name, *site.models_dirs, stage=False)
    except RemoteFileMissingError:
        config = context.gateway.get(f"{context.site.models_dir}/{name}/config.json").data
        return {"config": json.loads(config)}


def parse_inspection(output: Mapping[str, Any], default: ModelDescription) -> ModelDescription:
    """Parse what inspect_model.py prints. Raises ValueError, KeyError, TypeError or AttributeError for other forms."""
    if not output.get("config"):
        return default
    tensors = tuple(TensorGroup(*row) for row in output.get("tensors") or ())
    source = "the model on the cluster" if tensors else "its config.json on the cluster, and the catalog"
    return ModelDescription(default.name, parse_architecture(output["config"]), tensors, default.catalog_gib, source)


log = logging.getLogger(__name__)

PROBE_SCRIPT = "probe_login_node.py"
# hexadecimal characters of a digest in messages
DIGEST_SHOWN = 12


@dataclass(frozen=True)
class PinnedFiles:
    """What probe_login_node.py reports about the pinned image and model."""

    image: Mapping[str, Any]
    # None where the model is not there
    model: Mapping[str, Any] | None


def check_pins(context: WorkerContext, record: Deployment) -> None:
    """Raise LaunchRefusedError where image or weights differ from the pinned ones.

    What cannot be read now is checked by the job. No scripts are uploaded for it, because a preview changes nothing:
    before the first launch of a new version there is no script to run, and nothing is checked.
    """
    pins = record.pins
    if pins is None:
        return
    try:
        files = _probe(context, record.model, pins)
    except RemoteFileMissingError:
        log.info("deployment %s: pins not checked, the job scripts are not on the cluster yet", record.id)
        return
    changes = find_changes(files, record.model, pins)
    if changes:
        raise LaunchRefusedError(
            f"deployment {pins.deployment} cannot be reproduced: {'; '.join(changes)}; or launch without --like"
        )


def _probe(context: WorkerContext, model: str, pins: LaunchPins) -> PinnedFiles:
    image = posixpath.join(context.site.images_dir, f"{pins.image}.sif")
    request = {
        "directories": [],
        "images": [image],
        "hashes": context.paths.file_hashes(),
        "models_dir": context.site.models_dir,
        "models_dirs": list(context.site.models_dirs),
        "models": [],
        "weights": [[model, pins.model_revision]],
        "quota": [],
    }
    output = run_script(context, PROBE_SCRIPT, request=request, stage=False)
    with output_errors_mapped(PROBE_SCRIPT, output):
        # the script expands `~`, so the key may differ from the path in the request
        (found,) = output["images"].values()
        return PinnedFiles(found, output["weights"][model])


def find_changes(files: PinnedFiles, model: str, pins: LaunchPins) -> list[str]:
    """Return what differs from the pins, each with what to do about it. Pure."""
    found = (_image_change(files.image, pins), _model_change(files.model, model, pins))
    return [change for change in found if change]


def _image_change(image: Mapping[str, Any], pins: LaunchPins) -> str:
    if not image.get("exists"):
        return (
            f"the image {pins.image}.sif no longer exists (`bouchet image build {pins.image}` builds one with the same "
            "packages; then launch by model name)"
        )
    found = image.get("computed") or image.get("recorded")
    if found and found != pins.image_sha256:
        return (
            f"the image {pins.image}.sif was replaced: its sha256 is {found[:DIGEST_SHOWN]}..., "
            f"the deployment ran {pins.image_sha256[:DIGEST_SHOWN]}..."
        )
    return ""


def _model_change(found: Mapping[str, Any] | None, model: str, pins: LaunchPins) -> str:
    revision = pins.model_revision
    download = f"run `bouchet download {model}{f' --revision {revision}' if revision else ''}`"
    if not found:
        return f"the model {model} is no longer on the cluster ({download})"
    if revision and found.get("revision") != revision:
        return f"the model {model} is at commit {found.get('revision')}, the deployment ran {revision} ({download})"
    now, then = found.get("weights"), pins.weights
    if now and then is not None and now["how"] == then.how and now["digest"] != then.digest:
        digests = f"digest {now['digest'][:DIGEST_SHOWN]}..., then {then.digest[:DIGEST_SHOWN]}..."
        return f"files of the model {model} have changed ({digests})"
    return ""


def changed_arguments(then: Sequence[str], now: Sequence[str]) -> str:
    """Return how vLLM's arguments differ from those of the earlier launch, names aside; empty where they do not."""
    before, after = _options(then), _options(now)
    if not then or before == after:
        return ""
    removed = [" ".join(option) for option in before if option not in after]
    added = [" ".join(option) for option in after if option not in before]
    parts = [f"without {', '.join(removed)}"] if removed else []
    parts += [f"with {', '.join(added)}"] if added else []
    return f"this version of bouchet-llm starts vLLM {' and '.join(parts) or 'with its options in another order'}"


def _options(arguments: Sequence[str]) -> list[tuple[str, ...]]:
    """Return each option with its values, without the served names."""
    options: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--") or not options:
            options.append([argument])
        else:
            options[-1].append(argument)
    return [tuple(option) for option in options if option[0] != "--served-model-name"]
