"""Which models are on the cluster: the task that lists them, and the check before a launch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from bouchet_core.batch_jobs import DiskListing, DiskModel
from bouchet_core.errors import BouchetError, GatewayError, LaunchRefusedError
from bouchet_core.tunnel import TunnelState

from bouchet_worker.context import WorkerContext
from bouchet_worker.scripts import output_errors_mapped, run_script

log = logging.getLogger(__name__)

SCRIPT = "list_models.py"
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
        listing = _list(context)
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
            listing = _list(context)
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


def _list(context: WorkerContext) -> DiskListing:
    output = run_script(context, SCRIPT, context.site.root, context.site.models_dir, timeout_s=LIST_TIMEOUT_S)
    with output_errors_mapped(SCRIPT, output):
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
    )
