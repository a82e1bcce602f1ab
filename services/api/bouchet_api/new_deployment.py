"""From a launch request, or an earlier deployment, to the record of a new one. No I/O: id and time are arguments."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime

from bouchet_core.config.catalog import Catalog, ModelEntry, entry_of
from bouchet_core.config.site import Site
from bouchet_core.deployments import Deployment, Job, LaunchRequest, Placement
from bouchet_core.errors import LaunchRefusedError, NameTakenError, UnknownModelError
from bouchet_core.placement import candidates, image_for
from bouchet_core.policy import Policy
from bouchet_core.policy.checks import check_launch, measured_startup_s
from bouchet_core.provenance import LaunchPins
from bouchet_core.values import format_duration

ID_LENGTH = 12
# a preview has this in place of an id
PREVIEW_ID = "preview"


def new_id() -> str:
    """Return a random id of lower-case base32 letters, 60 bits; job and file names contain it."""
    return base64.b32encode(secrets.token_bytes(8)).decode()[:ID_LENGTH].lower()


def new_deployment(
    request: LaunchRequest,
    catalog: Catalog,
    site: Site,
    identity: str,
    now: datetime,
    earlier: Sequence[Deployment] = (),
) -> Deployment:
    """Return the record of a new deployment. earlier: deployments whose starts were measured.

    Raises UnknownModelError, or LaunchRefusedError for a misleading name or for what can never run at this site.
    """
    model, entry = catalog.find(request.model)
    alias = request.name or entry.alias
    check_name(alias)
    policy = new_policy(request, entry, now)
    image_for(entry, site)
    check_launch(policy, candidates(entry, request, site, {}), site, now, measured_startup_s(earlier, model))
    return Deployment(
        id=identity,
        model=model,
        names=(alias, model),
        request=request,
        traits=entry.traits,
        entry=entry.model_dump(mode="json"),
        policy=policy,
        reason="",
        created_at=now,
        updated_at=now,
    )


def new_policy(request: LaunchRequest, entry: ModelEntry, now: datetime) -> Policy:
    """Return the policy of a launch: what it asks for, over the catalog's. Raises LaunchRefusedError."""
    policy = Policy(on_demand=entry.on_demand)
    return policy if request.policy is None else request.policy.applied_to(policy, now)


def check_name(alias: str) -> None:
    """Raise LaunchRefusedError for a name that misleads clients."""
    if alias.startswith("claude-"):
        # Claude Code assumes its own window sizes for such names
        raise LaunchRefusedError(
            f"the name {alias!r} must not begin with `claude-`; use `--as` to serve under Claude's names"
        )


def resolve_names(deployment: Deployment, live: Sequence[Deployment]) -> Deployment:
    """Return the record with the names that a launch would give it; raise NameTakenError as a launch would."""
    owners = {name: record.id for record in live for name in record.names}
    # the model's id alone stays with an earlier deployment of it, which may have another name
    for name in deployment.names:
        if name in owners and name != deployment.model:
            raise NameTakenError(name, owners[name])
    return with_alias_only(deployment) if deployment.model in owners else deployment


def with_alias_only(deployment: Deployment) -> Deployment:
    """Return the record without the model's id among its names: an earlier deployment of the model keeps it."""
    return deployment.model_copy(update={"names": deployment.names[:1]})


# a job's folder on the cluster holds the request, not the image and weights that the job found
RECORD_REQUIRED = (
    "reproduction data is kept in the local record only, not on the cluster; `bouchet status --all` lists the "
    "records, `bouchet launch MODEL` starts the model from the catalog"
)
# fields of a request that may differ from the earlier one: resources, limits and names
CHANGEABLE = (
    *("name", "time", "partition", "account", "qos", "constraint", "serve_as", "idle_timeout_min", "policy"),
    *("like", "model", "notify"),
)


def relaunch(
    earlier: Deployment, request: LaunchRequest, catalog: Catalog, site: Site, identity: str, now: datetime
) -> Deployment:
    """Return the record of a deployment that reproduces `earlier`.

    Raises LaunchRefusedError when `earlier` never started vLLM, when the request changes what makes it reproducible,
    and when the site no longer has its partition or GPUs.
    """
    job, placement = _started_job(earlier)
    _check_unchanged(earlier, request)
    try:
        entry = entry_of(earlier, catalog)
    except UnknownModelError as exc:
        raise LaunchRefusedError(f"{exc}; the record of {earlier.id} is too old to contain its entry") from exc
    merged = _merged_request(earlier, request, placement)
    alias = merged.name or entry.alias
    check_name(alias)
    _check_same_hardware(merged, entry, site, earlier.id, placement)
    policy = new_policy(request, entry, now)
    check_launch(policy, candidates(entry, merged, site, {}), site, now)
    return Deployment(
        id=identity,
        model=earlier.model,
        names=(alias, earlier.model),
        request=merged,
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
        policy=policy,
        reason="",
        created_at=now,
        updated_at=now,
    )


def _started_job(earlier: Deployment) -> tuple[Job, Placement]:
    """Return the newest job that started vLLM, and its placement."""
    for job in reversed(earlier.jobs):
        if job.image and job.image_sha256 and job.placement is not None:
            return job, job.placement
    if earlier.attached is not None:
        raise LaunchRefusedError(
            f"{earlier.alias} is a server that was attached, so there is no job of ours to reproduce"
        )
    raise LaunchRefusedError(
        f"deployment {earlier.id} never started vLLM, so there is nothing to reproduce; "
        f"use `bouchet launch {earlier.model}`"
    )


def _check_unchanged(earlier: Deployment, request: LaunchRequest) -> None:
    named = request.model_dump(exclude_defaults=True)
    wrong = [f"--{field.replace('_', '-')}" for field in named if field not in CHANGEABLE]
    if request.model and request.model.lower() not in (earlier.model.lower(), *earlier.names):
        wrong.insert(0, f"model {request.model}")
    if wrong:
        raise LaunchRefusedError(
            f"{' and '.join(wrong)} would differ from deployment {earlier.id} ({earlier.model}); "
            "leave that out, or launch without --like"
        )


def _check_same_hardware(
    request: LaunchRequest, entry: ModelEntry, site: Site, earlier: str, before: Placement
) -> None:
    try:
        placement = candidates(entry, request, site, {})[0]
    except LaunchRefusedError as exc:
        raise LaunchRefusedError(f"{earlier} cannot be reproduced on its partition: {exc}") from exc
    if placement.partition == before.partition and placement.gpu_type != before.gpu_type:
        raise LaunchRefusedError(
            f"{earlier} cannot be reproduced: {placement.partition} has {placement.gpu_type} GPUs now, "
            f"it ran on {before.gpu_type}; choose another partition with --partition"
        )


def _merged_request(earlier: Deployment, request: LaunchRequest, placement: Placement) -> LaunchRequest:
    """Return the earlier request with its placement in numbers, and with the changes of the new one."""
    same = {
        "like": earlier.id,
        "model": earlier.model,
        "gpus": placement.gpus or None,
        "nodes": placement.nodes,
        "partition": placement.partition,
        "time": format_duration(placement.walltime_s),
        # whoever relaunches it asks for messages, or does not
        "notify": request.notify,
    }
    changes = {
        field: value for field in CHANGEABLE if (value := getattr(request, field)) and field not in ("like", "model")
    }
    if request.idle_timeout_min is not None:
        changes["idle_timeout_min"] = request.idle_timeout_min
    return earlier.request.model_copy(update={**same, **changes})
