"""Attaching a server of others: what is refused before the cluster is asked, and the request with its key sealed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bouchet_core.deployments import Deployment
from bouchet_core.deployments.attached import AttachError, AttachRequest, attached_job_name, node_problem, port_problem
from bouchet_core.errors import NameTakenError
from bouchet_core.keys import seal_attached_key
from pydantic import SecretStr

from .new_deployment import check_name

# the worker asks Slurm for the node, and then the server up to four times
WAIT_S = 45.0
EXAMPLES: dict[str, Any] = {
    "open": {"summary": "a server without a key", "value": {"name": "team-glm", "node": "a1102u01n01", "port": 8000}},
    "one of several": {
        "summary": "one model of a server that wants a key",
        "value": {
            "name": "centre",
            "node": "a1102u01n01",
            "port": 8000,
            "key": "sk-...",
            "model": "zai-org/GLM-4.7-FP8",
        },
    },
}
_ATTACHED: dict[str, Any] = {
    "id": "k5t2m4qfh3ab",
    "model": "zai-org/GLM-4.7-FP8",
    "names": ["team-glm", "zai-org/GLM-4.7-FP8"],
    "request": {"model": "zai-org/GLM-4.7-FP8", "name": "team-glm"},
    "attached": {"model": "zai-org/GLM-4.7-FP8", "dialects": ["openai", "anthropic"], "has_key": False},
    "phase": "ready",
    "jobs": [{"name": "attached-k5t2m4qfh3ab", "slot": 1, "phase": "ready", "node": "a1102u01n01", "port": 8000}],
    "created_at": "2026-11-22T12:00:00Z",
    "updated_at": "2026-11-22T12:00:00Z",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    201: {"content": {"application/json": {"example": _ATTACHED}}, "description": "attached, and served"}
}


def check_request(request: AttachRequest, live: Iterable[Deployment]) -> None:
    """Raise AttachError or NameTakenError for what cannot be attached, whatever the cluster says.

    live: the live deployments, whose names and servers are taken.
    """
    check_name(request.name)
    if problem := node_problem(request.node) or port_problem(request.port):
        raise AttachError(problem)
    for record in live:
        if request.name in record.names:
            raise NameTakenError(request.name, record.id)
        if any((job.node, job.port) == (request.node, request.port) for job in record.live_jobs):
            whose = "attached already" if record.attached is not None else "a job of ours"
            raise AttachError(f"{request.node}:{request.port} is {whose}: {record.alias} ({record.id})")


def sealed_request(request: AttachRequest, identity: str, secret: SecretStr) -> dict[str, Any]:
    """Return what the worker gets: all of the request, with its key sealed for this deployment alone."""
    key = request.key.get_secret_value() if request.key is not None else ""
    sealed = seal_attached_key(secret.get_secret_value(), attached_job_name(identity), key)
    return {**request.model_dump(mode="json", exclude={"key"}), "id": identity, "sealed_key": sealed}
