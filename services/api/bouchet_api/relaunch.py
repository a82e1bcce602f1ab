"""From an earlier deployment to the record of one that runs the very same again. Pure."""

from __future__ import annotations

from datetime import datetime

from bouchet_core.catalog import Catalog, entry_of
from bouchet_core.deployments import Deployment, Job, LaunchRequest, Placement
from bouchet_core.durations import format_duration
from bouchet_core.errors import LaunchRefusedError, UnknownModelError
from bouchet_core.placement import candidates
from bouchet_core.provenance import LaunchPins
from bouchet_core.site import Site

from .new_deployment import refuse_claude_name

# the job's folder on the cluster holds what was asked for, not what image and weights it then found
NO_RECORD = (
    "what one ran stands on its record alone, not in the files that its job left on the cluster: "
    "`bouchet status --all` lists the records, `bouchet launch MODEL` asks for the model anew"
)
# what may differ: where and how long, for whom, and under which name
FREE = (
    *("name", "time", "partition", "account", "qos", "constraint", "serve_as", "idle_timeout_min"),
    *("like", "model"),
)


def like(earlier: Deployment, request: LaunchRequest, catalog: Catalog, identity: str, now: datetime) -> Deployment:
    """The record. Raises LaunchRefusedError where the earlier one cannot be run again, or is not to be run as it was."""
    job, place = _that_ran(earlier)
    _refuse_changes(earlier, request)
    try:
        entry = entry_of(earlier, catalog)
    except UnknownModelError as exc:
        raise LaunchRefusedError(f"{exc}; the record of {earlier.id} is too old to hold its entry") from exc
    asked = _expanded(earlier, request, place)
    refuse_claude_name(asked.name or entry.alias)
    return Deployment(
        id=identity,
        model=earlier.model,
        names=(asked.name or entry.alias, earlier.model),
        request=asked,
        traits=entry.traits,
        entry=entry.model_dump(mode="json"),
        pins=LaunchPins(
            deployment=earlier.id,
            image=(job.image or "").removesuffix(".sif"),
            image_sha256=job.image_sha256 or "",
            vllm=job.vllm_version or "",
            model_revision=job.model_revision,
            weights=job.weights,
            arguments=job.arguments,
        ),
        reason="",
        created_at=now,
        updated_at=now,
    )


def refuse_other_hardware(wanted: Deployment, earlier: Deployment, catalog: Catalog, site: Site) -> None:
    """LaunchRefusedError where the site has no such partition any more, or other GPUs in it."""
    _, before = _that_ran(earlier)
    try:
        place = candidates(entry_of(wanted, catalog), wanted.request, site, {})[0]
    except LaunchRefusedError as exc:
        raise LaunchRefusedError(f"{earlier.id} cannot be run again where it ran: {exc}") from exc
    if place.partition == before.partition and place.gpu_type != before.gpu_type:
        what = f"{place.partition} has {place.gpu_type} GPUs now, it ran on {before.gpu_type}"
        raise LaunchRefusedError(f"{earlier.id} cannot be run again as it was: {what}; --partition names another")


def _that_ran(earlier: Deployment) -> tuple[Job, Placement]:
    """The newest of its jobs that started vLLM."""
    for job in reversed(earlier.jobs):
        if job.image and job.image_sha256 and job.placement is not None:
            return job, job.placement
    raise LaunchRefusedError(
        f"deployment {earlier.id} never came so far as to start vLLM, so there is nothing to run again; "
        f"`bouchet launch {earlier.model}` asks for it anew"
    )


def _refuse_changes(earlier: Deployment, request: LaunchRequest) -> None:
    named = request.model_dump(exclude_defaults=True)
    wrong = [f"--{field.replace('_', '-')}" for field in named if field not in FREE]
    if request.model and request.model.lower() not in (earlier.model.lower(), *earlier.names):
        wrong.insert(0, f"model {request.model}")
    if wrong:
        raise LaunchRefusedError(
            f"with {' and '.join(wrong)} it would not be the same as deployment {earlier.id} ({earlier.model}); "
            "leave that out, or launch without --like"
        )


def _expanded(earlier: Deployment, request: LaunchRequest, place: Placement) -> LaunchRequest:
    """The earlier request with what Slurm was asked for in numbers, and with what may differ."""
    ran = {
        "like": earlier.id,
        "model": earlier.model,
        "gpus": place.gpus or None,
        "nodes": place.nodes,
        "partition": place.partition,
        "time": format_duration(place.walltime_s),
    }
    changes = {field: value for field in FREE if (value := getattr(request, field)) and field not in ("like", "model")}
    if request.idle_timeout_min is not None:
        changes["idle_timeout_min"] = request.idle_timeout_min
    return earlier.request.model_copy(update={**ran, **changes})
