"""`bouchet attach`: check where a server is, probe it through a slot, and make a deployment of it."""

from __future__ import annotations

import logging
import time
from datetime import datetime

from bouchet_core.config.catalog import ModelEntry
from bouchet_core.deployments import Deployment, Job, LaunchRequest, Phase, Traits
from bouchet_core.deployments.attached import (
    AttachedServer,
    AttachError,
    ModelId,
    attached_job_name,
    node_problem,
    port_problem,
)
from bouchet_core.errors import (
    ClusterUnavailableError,
    NameTakenError,
    RemoteCommandError,
    StoreError,
    TunnelDownError,
)
from bouchet_core.keys import job_key
from bouchet_core.store.deployments import slot_owner
from bouchet_core.tunnel import SLOT_SETTLED_S, SlotTarget
from bouchet_core.values import DeploymentName, FrozenModel

from bouchet_worker.context import WorkerContext
from bouchet_worker.slurm.commands import QUERY_TIMEOUT_S, show_node_argv

from .probe import AttachedClient, NotAskedError, ServedModel, ServerReport

log = logging.getLogger(__name__)

ASK_AGAIN_S, ASK_PAUSE_S = 2.0, 0.2
# what a tool parser is called that only the server knows
ITS_OWN_PARSER = "of the server"


class AttachTask(FrozenModel):
    """What the API asks for: a request to attach, with the record's id and the sealed key in place of the key."""

    id: str
    name: DeploymentName
    node: str
    port: int
    sealed_key: str
    model: ModelId | None = None
    max_len: int | None = None

    @property
    def job_name(self) -> str:
        """What the place of a job is called in the record."""
        return attached_job_name(self.id)


def attach_server(context: WorkerContext, task: AttachTask) -> Deployment:
    """Return the new deployment of that server. Raises AttachError, RecordError and GatewayError.

    Its node is checked before a slot leads there, and the slot is free again where the server is none to attach.
    """
    check_place(context, task.node, task.port)
    slot = context.store.take_slot(task.id, task.job_name, context.slot_count)
    made = False
    try:
        target = SlotTarget(node=task.node, port=task.port, deployment=task.id, attached=True)
        context.store.lead_slot(slot, target)
        # nothing proves who answers, so the key must not go to where the slot led a moment ago
        time.sleep(SLOT_SETTLED_S)
        report = _ask(context, task, slot)
        record = _create(context, new_record(context, task, slot, report, context.now()))
        made = True
    finally:
        if not made:
            _release(context, task, slot)
    log.info("deployment %s: %s on %s:%s attached as %s", record.id, record.model, task.node, task.port, record.alias)
    return record


def check_place(context: WorkerContext, node: str, port: int) -> None:
    """Raise AttachError unless this may be a server on a node that Slurm or the site file knows."""
    if problem := node_problem(node) or port_problem(port):
        raise AttachError(problem)
    if node in context.site.attach_hosts:
        return
    try:
        context.gateway.run(show_node_argv(node), timeout_s=QUERY_TIMEOUT_S)
    except RemoteCommandError as exc:
        # scontrol prints that it finds no such node on its standard output
        if exc.stderr.strip() and "not found" not in exc.stderr:
            raise
        raise AttachError(
            f"Slurm knows no node {node!r}: name one that `sinfo -N` prints, or list the host under `attach_hosts` in "
            "the site file"
        ) from exc


def _ask(context: WorkerContext, task: AttachTask, slot: int) -> ServerReport:
    """Return what the server says of itself."""
    url = f"http://{context.slot_host}:{context.slot_base_port + slot}"
    key = job_key(context.serving_secret, task.job_name, task.sealed_key)
    until = time.monotonic() + ASK_AGAIN_S
    with AttachedClient(url, key) as server:
        while True:
            try:
                return server.report()
            except NotAskedError as exc:
                if time.monotonic() > until:
                    raise _not_asked(exc) from exc
                time.sleep(ASK_PAUSE_S)
            except AttachError as exc:
                raise type(exc)(f"{task.node}:{task.port} cannot be attached: {exc}") from exc


def _not_asked(exc: NotAskedError) -> ClusterUnavailableError:
    return TunnelDownError(f"the server could not be asked: {exc}; see `bouchet tunnel`")


def new_record(context: WorkerContext, task: AttachTask, slot: int, report: ServerReport, now: datetime) -> Deployment:
    """Return the record of a server that has answered. Raises AttachError where its model is not clear."""
    model = report.model(task.model)
    name, entry = _catalog_entry(context, model.id)
    attached = AttachedServer(
        model=model.id,
        dialects=report.dialects,
        max_len=task.max_len,
        has_key=bool(job_key(context.serving_secret, task.job_name, task.sealed_key)),
    )
    job = Job(
        name=task.job_name,
        slot=slot,
        phase=Phase.READY,
        node=task.node,
        port=task.port,
        window=window_of(model, task.max_len),
        vllm_version=report.vllm_version,
        sealed_key=task.sealed_key,
        since={Phase.READY: now},
    )
    return Deployment(
        id=task.id,
        model=name,
        names=(task.name,) if name == task.name else (task.name, name),
        request=LaunchRequest(model=name, name=task.name),
        traits=Traits(tool_parser=ITS_OWN_PARSER) if entry is None else entry.traits,
        entry={} if entry is None else entry.model_dump(mode="json"),
        attached=attached,
        phase=Phase.READY,
        jobs=(job,),
        created_at=now,
        updated_at=now,
    )


def window_of(model: ServedModel, named: int | None) -> int | None:
    """Return the context window to keep requests within: the smaller one where a person named another."""
    found = [window for window in (model.window, named) if window is not None]
    return min(found) if found else None


def _catalog_entry(context: WorkerContext, model: str) -> tuple[str, ModelEntry | None]:
    """Return the model's id and its entry, where the catalog has exactly it; else the name alone."""
    for identity, entry in context.catalog.entries.items():
        if model.lower() in (identity.lower(), entry.alias):
            return identity, entry
    return model, None


def _create(context: WorkerContext, record: Deployment) -> Deployment:
    """Store the record; the model's own name stays with an earlier deployment that has it. Raises NameTakenError."""
    try:
        stored = context.store.create(record)
    except NameTakenError as exc:
        if exc.name == record.alias:
            raise
        stored = context.store.create(record.model_copy(update={"names": record.names[:1]}))
    return stored


def _release(context: WorkerContext, task: AttachTask, slot: int) -> None:
    try:
        context.store.release_slot(slot, slot_owner(task.id, task.job_name))
    except StoreError as exc:
        log.warning("slot %d stays taken for %s, which is not attached: %s", slot, task.name, exc)
