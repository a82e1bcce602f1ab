"""`python -m bouchet_worker`: tasks from the queue in the main thread, the reconcile loop in another one."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import uuid
from types import FrameType

from bouchet_core.config.catalog import load_catalog
from bouchet_core.config.job_scripts import load_scripts
from bouchet_core.config.site import catalogs_of, load_site
from bouchet_core.errors import BouchetError, StoreError
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.settings import start_logging
from bouchet_core.store import Store
from bouchet_core.tasks import QUEUE
from bouchet_core.tunnel import TargetSigner
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer

from .context import WorkerContext
from .ledger.accounting import AccountingScheduler
from .reconcile.cleanup import CleanupScheduler
from .reconcile.figures import FigureReader
from .reconcile.health import SlotProbe
from .reconcile.loop import ReconcileLoop
from .reconcile.observe import Observer
from .reconcile.smoke_runner import SmokeTestRunner
from .settings import WorkerSettings
from .task_queue import TaskJob, TaskQueue
from .tasks import set_context

log = logging.getLogger("bouchet_worker")

LOOP_STOP_TIMEOUT_S = 15.0
# pause after Redis was lost
RECONNECT_S = 1.0


def build_context(settings: WorkerSettings, owner: str) -> WorkerContext:
    """Read site file, catalog and job scripts. Raises ConfigurationError, which names the file that is wrong."""
    site = load_site(settings.site_file)
    token = settings.gateway_token.get_secret_value()
    return WorkerContext(
        store=Store.connect(settings.redis_login, TargetSigner(token)),
        gateway=GatewayClient(settings.gateway_url, token),
        site=site,
        catalog=load_catalog(*catalogs_of(settings.site_file, site, settings.catalog)),
        scripts=load_scripts(settings.remote_dir),
        pins_dir=settings.pins_dir,
        recipe_dir=settings.recipe_dir,
        serving_secret=settings.serving_secret.get_secret_value(),
        hub_token=settings.hf_token.get_secret_value() if settings.hf_token else None,
        slot_count=settings.slot_count,
        slot_host=settings.slot_host,
        slot_base_port=settings.slot_base_port,
        budget=settings.budget,
        owner=owner,
        heartbeat_file=settings.heartbeat_file,
    )


def build_loop(context: WorkerContext, probe: SlotProbe, figures: FigureReader, tasks: TaskQueue) -> ReconcileLoop:
    """Build the reconcile loop, whose tasks go to the queue."""
    smoke_tests = SmokeTestRunner(probe)
    observer = Observer(context, probe, smoke_tests)
    timers = CleanupScheduler(context), AccountingScheduler(context)
    return ReconcileLoop(context, observer, tasks.send, tasks.tend, smoke_tests, *timers, figures.latest)


def work(context: WorkerContext, loop: ReconcileLoop, figures: FigureReader, queue: Queue) -> None:
    """Run tasks and both threads until SIGTERM; RQ then finishes its current task, and the loop its step."""
    stopping = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stopping,), name="reconcile", daemon=True)
    thread.start()
    threading.Thread(target=figures.run, args=(stopping,), name="figures", daemon=True).start()
    try:
        set_context(context)
        stop_requested = threading.Event()
        while not stop_requested.is_set():
            _run_tasks(context.owner, queue, stop_requested)
            with contextlib.suppress(StopRequested):
                stop_requested.wait(RECONNECT_S)
    finally:
        stopping.set()
        thread.join(LOOP_STOP_TIMEOUT_S)


class _TaskWorker(SimpleWorker):
    """RQ's worker, which also ends when Redis is lost during a task: the event is set only by a signal."""

    stop_requested: threading.Event

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Handle SIGTERM and SIGINT."""
        self.stop_requested.set()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]


def _run_tasks(owner: str, queue: Queue, stop_requested: threading.Event) -> None:
    # RQ refuses the name of a worker that was killed, so each one has a new name
    name = f"{owner}-{uuid.uuid4().hex[:8]}"
    try:
        with Store.errors_mapped():
            worker = _TaskWorker(
                [queue], name=name, connection=queue.connection, job_class=TaskJob, serializer=JSONSerializer
            )
            worker.stop_requested = stop_requested
            worker.work(logging_level=None)
    except StopRequested:
        stop_requested.set()
    except StoreError as exc:
        log.warning("tasks wait for Redis: %s", exc)


def main() -> int:
    """Run the worker; return 1 after printing one sentence when a setting or a file is wrong."""
    try:
        settings = WorkerSettings.from_environment(os.environ)
    except BouchetError as exc:
        print(f"worker: {exc}", file=sys.stderr)
        return 1
    start_logging(settings.log_level)
    # the worker logs tasks and phase changes itself, with the deployment's id
    for library in ("httpx", "rq.worker"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        context = build_context(settings, owner=settings.owner)
    except BouchetError as exc:
        log.error("%s", exc)
        return 1
    connection = context.store.queue_connection()
    probe = SlotProbe(settings.slot_host, settings.slot_base_port, context.serving_secret)
    figures = FigureReader(context, probe)
    queue = Queue(QUEUE, connection=connection, job_class=TaskJob, serializer=JSONSerializer)
    try:
        work(context, build_loop(context, probe, figures, TaskQueue(queue)), figures, queue)
    finally:
        connection.close()
        context.gateway.close()
        context.store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
