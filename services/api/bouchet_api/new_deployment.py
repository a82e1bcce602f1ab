"""From a request to a record. Pure: the id and the time are handed in."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime

from bouchet_core.catalog import Catalog
from bouchet_core.deployments import Deployment, LaunchRequest
from bouchet_core.errors import LaunchRefusedError, NameTakenError
from bouchet_core.placement import candidates, image_for
from bouchet_core.site import Site

ID_LENGTH = 12
# stands where a launch has its id
PREVIEW_ID = "preview"


def new_id() -> str:
    """A random id of lower-case base32 letters, 60 bits: goes into job names and file names."""
    return base64.b32encode(secrets.token_bytes(8)).decode()[:ID_LENGTH].lower()


def requested(request: LaunchRequest, catalog: Catalog, identity: str, now: datetime) -> Deployment:
    """The record of a new promise. Raises UnknownModelError, or LaunchRefusedError for a name that misleads clients."""
    model, entry = catalog.find(request.model)
    alias = request.name or entry.alias
    refuse_claude_name(alias)
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


def refuse_claude_name(alias: str) -> None:
    """LaunchRefusedError for a name that misleads clients."""
    if alias.startswith("claude-"):
        # Claude Code assumes its own window sizes for names that begin so
        raise LaunchRefusedError(f"the name {alias!r} must not begin with `claude-`; `--as` answers for Claude's names")


def refuse_misfit(deployment: Deployment, catalog: Catalog, site: Site) -> None:
    """Raises LaunchRefusedError for what can never run at the site, whatever runs there now. The worker asks again."""
    _, entry = catalog.find(deployment.model)
    image_for(entry, site)
    candidates(entry, deployment.request, site, {})


def named_among(deployment: Deployment, live: Sequence[Deployment]) -> Deployment:
    """The record under the names that a launch would give it beside those that live; NameTakenError like a launch."""
    owners = {name: record.id for record in live for name in record.names}
    for name in deployment.names:
        if name in owners and (name != deployment.model or deployment.request.name is None):
            raise NameTakenError(name, owners[name])
    return without_model_name(deployment) if deployment.model in owners else deployment


def without_model_name(deployment: Deployment) -> Deployment:
    """The same, answering to its alias alone: a second deployment of a model, the first keeps the model's id."""
    return deployment.model_copy(update={"names": deployment.names[:1]})
