"""Asking the hub about a model, from the login node; and removing a model's weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bouchet_core.batch_jobs import DiskListing
from bouchet_core.config.hub_models import (
    HubModelError,
    HubModelRequest,
    ModelInUseError,
    ModelMissingError,
    ModelProposal,
    RemovedModel,
)
from bouchet_core.errors import GatewayError, RemoteCommandError

from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.checks import list_models, list_on_cluster
from bouchet_worker.scripts import output_errors_mapped, run_script, run_script_text

from .propose import HubModel, propose_entry

log = logging.getLogger(__name__)

HUB_SCRIPT, REMOVE_SCRIPT = "inspect_hub.py", "remove_model.py"
# three or four small files of the hub
HUB_TIMEOUT_S = 100.0
REMOVE_TIMEOUT_S = 200.0
ARCHITECTURES = "architectures.txt"


def inspect_hub_model(context: WorkerContext, request: HubModelRequest) -> ModelProposal:
    """Return what the hub says of a model, and a catalog entry for it. Raises HubModelError and GatewayError."""
    site = context.site
    question = {
        "endpoint": site.hub_endpoint,
        "model": request.model,
        "revision": request.revision,
        "token": context.hub_token,
        "proxy": site.download_proxy,
    }
    output = run_script(context, HUB_SCRIPT, request=question, timeout_s=HUB_TIMEOUT_S)
    if "problem" in output:
        raise HubModelError(str(output.get("detail", "")), str(output["problem"]))
    with output_errors_mapped(HUB_SCRIPT, output):
        model = parse_hub_model(request.model, output)
        return propose_entry(model, site, known_architectures(context.pins_dir, site.default_image))


def parse_hub_model(name: str, output: Mapping[str, Any]) -> HubModel:
    """Parse what inspect_hub.py prints. Raises ValueError, KeyError or TypeError for other forms."""
    parameters = output.get("parameters")
    return HubModel(
        name=name,
        commit=str(output["commit"]),
        gated=bool(output["gated"]),
        files=[(str(path), int(size)) for path, size in output["files"]],
        config=dict(output["config"]),
        template=str(output.get("template") or ""),
        parameters=parameters if isinstance(parameters, int) else None,
    )


def known_architectures(pins_dir: Path, pin: str) -> frozenset[str]:
    """Return the architectures that the pin's vLLM loads; empty where the pin has no list."""
    try:
        lines = (pins_dir / pin / ARCHITECTURES).read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def remove_model(context: WorkerContext, model: str, force: bool) -> RemovedModel:
    """Remove the model's weights. Raises ModelInUseError (unless forced), ModelMissingError and GatewayError."""
    users = model_users(context, model)
    if users and not force:
        raise ModelInUseError(model, users)
    _check_removable(model, list_on_cluster(context))
    try:
        text = run_script_text(context, REMOVE_SCRIPT, context.site.models_dir, model, timeout_s=REMOVE_TIMEOUT_S)
    except RemoteCommandError as exc:
        raise GatewayError(f"{model} could not be removed: {exc.stderr.strip() or exc}") from exc
    with output_errors_mapped(REMOVE_SCRIPT, text):
        output = json.loads(text)
        removed = RemovedModel(model=model, bytes=output["bytes"], folders=tuple(output["folders"]))
    log.info("%s: removed%s", model, f", although used by {', '.join(users)}" if users else "")
    list_models(context)
    return removed


def model_users(context: WorkerContext, model: str) -> list[str]:
    """Return the live deployments of the model by name, and its live download."""
    deployments = [d.alias for d in context.store.live() if d.model == model]
    downloads = ["its download" for d in context.store.downloads.live() if d.model == model]
    return [*deployments, *downloads]


def _check_removable(model: str, listing: DiskListing) -> None:
    found = listing.of(model)
    if found.state == "missing":
        raise ModelMissingError(model)
    if found.shared:
        raise ModelMissingError(model, f"it is in {found.shared}, which is shared: bouchet-llm only reads there")
