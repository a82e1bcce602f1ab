"""From a launch request to a deployment's record. No I/O: id and time are arguments."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime

from bouchet_core.config.catalog import Catalog, ModelEntry
from bouchet_core.config.site import Site
from bouchet_core.deployments import Deployment, LaunchRequest
from bouchet_core.errors import LaunchRefusedError, NameTakenError
from bouchet_core.placement import candidates, image_for

ID_LENGTH = 12
# a preview has this in place of an id
PREVIEW_ID = "preview"


def new_id() -> str:
    """Return a random id of lower-case base32 letters, 60 bits; job and file names contain it."""
    return base64.b32encode(secrets.token_bytes(8)).decode()[:ID_LENGTH].lower()


def new_deployment(request: LaunchRequest, catalog: Catalog, site: Site, identity: str, now: datetime) -> Deployment:
    """Return the record of a new deployment.

    Raises UnknownModelError, or LaunchRefusedError for a misleading name or for what can never run at this site.
    """
    model, entry = catalog.find(request.model)
    alias = request.name or entry.alias
    check_name(alias)
    check_placement(request, entry, site)
    return Deployment(
        id=identity,
        model=model,
        names=(alias, model),
        request=request,
        traits=entry.traits,
        entry=entry.model_dump(mode="json"),
        reason="",
        created_at=now,
        updated_at=now,
    )


def check_name(alias: str) -> None:
    """Raise LaunchRefusedError for a name that misleads clients."""
    if alias.startswith("claude-"):
        # Claude Code assumes its own window sizes for such names
        raise LaunchRefusedError(
            f"the name {alias!r} must not begin with `claude-`; use `--as` to serve under Claude's names"
        )


def check_placement(request: LaunchRequest, entry: ModelEntry, site: Site) -> None:
    """Raise LaunchRefusedError for what no image or partition of the site can run; the worker checks again."""
    image_for(entry, site)
    candidates(entry, request, site, {})


def resolve_names(deployment: Deployment, live: Sequence[Deployment]) -> Deployment:
    """Return the record with the names that a launch would give it; raise NameTakenError as a launch would."""
    owners = {name: record.id for record in live for name in record.names}
    for name in deployment.names:
        if name in owners and (name != deployment.model or deployment.request.name is None):
            raise NameTakenError(name, owners[name])
    return with_alias_only(deployment) if deployment.model in owners else deployment


def with_alias_only(deployment: Deployment) -> Deployment:
    """Return the record without the model's id among its names: an earlier deployment of the model keeps it."""
    return deployment.model_copy(update={"names": deployment.names[:1]})
