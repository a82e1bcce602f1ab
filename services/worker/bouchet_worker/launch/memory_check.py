"""Whether a launch fits into the memory of its GPUs: the model's files on the cluster, and the estimate from them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from bouchet_core.config.catalog import ModelEntry, parallel_of
from bouchet_core.config.site import Site
from bouchet_core.deployments import MemoryEstimate
from bouchet_core.errors import GatewayError, RemoteFileMissingError

from bouchet_worker.context import WorkerContext
from bouchet_worker.memory.architecture import parse_architecture
from bouchet_worker.memory.estimate import ModelDescription, estimate_memory
from bouchet_worker.memory.vllm_args import parse_vllm_args
from bouchet_worker.memory.weights import TensorGroup
from bouchet_worker.scripts import run_script

from .job_files import JobSpec

log = logging.getLogger(__name__)

SCRIPT = "inspect_model.py"
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
        log.warning("cannot read the output of %s for %s: %r", SCRIPT, name, exc)
    return from_catalog


def _run_inspection(context: WorkerContext, name: str) -> Mapping[str, Any]:
    """Return the script's output; only config.json where no script is on the cluster yet, as in a first preview."""
    try:
        return run_script(context, SCRIPT, context.site.models_dir, name, stage=False)
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
