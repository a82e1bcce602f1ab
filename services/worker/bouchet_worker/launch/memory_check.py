"""Whether a launch fits into the memory of its GPUs: what the model on the cluster says of itself, and the sum."""

from __future__ import annotations

import json
import logging
from typing import Any

from bouchet_core.config.catalog import ModelEntry, entry_of
from bouchet_core.config.parallel import parallel_of
from bouchet_core.config.site import Site
from bouchet_core.deployments import Deployment, Job, MemoryEstimate
from bouchet_core.errors import GatewayError, RemoteFileMissingError
from bouchet_core.placement import image_of

from bouchet_worker.context import WorkerContext
from bouchet_worker.memory.architecture import parse_architecture
from bouchet_worker.memory.estimate import ModelDescription, estimate_memory
from bouchet_worker.memory.vllm_args import parse_vllm_args
from bouchet_worker.memory.weights import TensorGroup

from .job_files import COMPLETE_MARKER, spec_for
from .plan import placement_of

log = logging.getLogger(__name__)

PROGRAM = "inspect_model.py"
TIMEOUT_S = 60.0
# pins of this name serve without a GPU
CPU_PINS = "cpu-"


def memory_of(context: WorkerContext, record: Deployment, job: Job) -> MemoryEstimate:
    """The sum for that job. LaunchRefusedError where it cannot fit; what cannot be learnt refuses nothing."""
    entry = entry_of(record, context.catalog)
    image, placement = image_of(record, entry, context.site), placement_of(job)
    spec = spec_for(record, job.name, entry, placement, image, context.site)
    cpu = placement.gpus == 0 or image.pin.startswith(CPU_PINS)
    parallel = parallel_of(entry, placement.gpus, placement.nodes)
    asked = parse_vllm_args(spec.arguments, entry.env, spec.window, parallel, cpu=cpu)
    gpu_gib = None if cpu else context.site.gpu_memory_gib.get(placement.gpu_type)
    host_gib = placement.memory_gib if cpu else None
    most = _most_gpus(context.site, placement.nodes)
    return estimate_memory(_model(context, record.model, entry), asked, gpu_gib, host_gib, most)


def _most_gpus(site: Site, nodes: int) -> int:
    """What a job on so many nodes can have at the site."""
    there = [(p.gpus_per_node * nodes, p.max_gpus) for p in site.partitions]
    return max((gpus if most is None else min(gpus, most) for gpus, most in there), default=0)


def _model(context: WorkerContext, name: str, entry: ModelEntry) -> ModelDescription:
    by_catalog = ModelDescription(entry.alias, catalog_gib=entry.weights_gib, source="the catalog")
    try:
        return parse_look(_look(context, name), by_catalog)
    except GatewayError as exc:
        log.info("could not look what %s is made of: %s", name, exc)
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as exc:
        log.warning("cannot read what %s said of %s: %r", PROGRAM, name, exc)
    return by_catalog


def _look(context: WorkerContext, name: str) -> str:
    """What the program prints; the bare config.json where no program lies there yet, which only a preview meets."""
    folder = context.layout.scripts(context.scripts.digest)
    try:
        context.gateway.get(f"{folder}/{COMPLETE_MARKER}", max_bytes=1)
    except RemoteFileMissingError:
        config = context.gateway.get(f"{context.site.models_dir}/{name}/config.json").data
        return json.dumps({"config": json.loads(config)})
    argv = ["python3", f"{folder}/{PROGRAM}", context.site.models_dir, name]
    return context.gateway.run(argv, timeout_s=TIMEOUT_S).stdout


def parse_look(text: str, otherwise: ModelDescription) -> ModelDescription:
    """What inspect_model.py prints. ValueError, KeyError, TypeError or AttributeError where it is something else."""
    said: dict[str, Any] = json.loads(text)
    if not said.get("config"):
        return otherwise
    tensors = tuple(TensorGroup(*row) for row in said.get("tensors") or ())
    source = "the model on the cluster" if tensors else "its config.json on the cluster, and the catalog"
    return ModelDescription(otherwise.name, parse_architecture(said["config"]), tensors, otherwise.catalog_gib, source)
