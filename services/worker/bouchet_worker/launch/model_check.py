"""The task that looks which models lie on the cluster: one small program on the login node."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from bouchet_core.downloads import DiskListing, DiskModel
from bouchet_core.errors import BouchetError, GatewayError, LaunchRefusedError
from bouchet_core.tunnel import TunnelState

from bouchet_worker.context import WorkerContext
from bouchet_worker.scripts import stage_scripts

log = logging.getLogger(__name__)

PROGRAM = "list_models.py"
TIMEOUT_S = 30.0
# a launch trusts a look this young that its model is there
FRESH = timedelta(minutes=10)


def look_at_disk(context: WorkerContext) -> str:
    """Keeps what it found. While the tunnel is down nothing is asked and nothing is forgotten."""
    try:
        if context.gateway.status().state is not TunnelState.UP:
            return "the tunnel is down"
        look = _look(context)
    except BouchetError as exc:
        log.warning("could not look which models are on the cluster: %s", exc)
        return "could not ask"
    context.store.downloads.keep_disk(look)
    return f"{len(look.models)} models"


def refuse_absent(context: WorkerContext, model: str) -> None:
    """LaunchRefusedError when the model is known not to be there whole. What cannot be learnt blocks nothing."""
    known = context.store.downloads.disk()
    if known is None or context.now() - known.looked_at > FRESH or known.of(model).state != "ready":
        try:
            known = _look(context)
        except GatewayError as exc:
            log.info("could not look whether %s is on the cluster: %s", model, exc)
            return
        context.store.downloads.keep_disk(known)
    found = known.of(model)
    if found.state == "partial":
        part = f"{found.percent} % of it" if found.percent is not None else "a part of it"
        raise LaunchRefusedError(f"only {part} is on the cluster; `bouchet download {model}` fetches the rest")
    if found.state == "missing":
        raise LaunchRefusedError(f"the model {model} is not on the cluster yet; `bouchet download {model}` fetches it")


def _look(context: WorkerContext) -> DiskListing:
    stage_scripts(context)
    folder = context.layout.scripts(context.scripts.digest)
    argv = ["python3", f"{folder}/{PROGRAM}", context.site.root, context.site.models_dir]
    text = context.gateway.run(argv, timeout_s=TIMEOUT_S).stdout
    try:
        return parse_look(text, context.now())
    except (ValueError, KeyError, TypeError) as exc:
        raise GatewayError(f"cannot read what {PROGRAM} printed: {text[:200]!r}") from exc


def parse_look(text: str, now: datetime) -> DiskListing:
    """What list_models.py prints. ValueError, KeyError or TypeError where it is something else."""
    said: dict[str, Any] = json.loads(text)
    models = {name: _on_disk(row) for name, row in said["models"].items()}
    return DiskListing(models=models, free_bytes=said.get("free_bytes"), looked_at=now)


def _on_disk(row: dict[str, Any]) -> DiskModel:
    used = row.get("last_used")
    return DiskModel(
        state=row["state"],
        bytes=row["bytes"],
        total_bytes=row.get("total_bytes"),
        revision=row.get("revision"),
        last_used=datetime.fromtimestamp(used, UTC) if used else None,
    )
