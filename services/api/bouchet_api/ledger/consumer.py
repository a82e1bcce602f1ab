"""The thread that takes entries from Redis into the ledger.

An entry is acknowledged after the transaction that stored it: killed in between, it is delivered again and changes
nothing. While Redis or the database does not work, the thread waits and tries again; entries wait in Redis.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from bouchet_core.errors import BouchetError, StoreError
from bouchet_core.store import Store
from bouchet_core.store.ledger import WaitingEntry

from .database import LedgerDatabase, LedgerUnavailableError
from .intake import take_entries
from .retention import Retention

BATCH = 500
# below the socket's timeout; also the longest time that a shutdown waits
WAIT_S = 2.0
PAUSE_S = 5.0
# entries of one second are stored in one transaction, so that an idle disk stays idle
GATHER_S = 0.5

log = logging.getLogger(__name__)


@dataclass
class LedgerCounts:
    """What the consumer has done since the API started."""

    requests: int = 0
    jobs: int = 0
    lost: int = 0
    unreadable: int = 0


class LedgerConsumer:
    """Owns the thread."""

    def __init__(self, store: Store, database: LedgerDatabase, retention: Retention) -> None:
        self._store, self._database, self._retention = store, database, retention
        self.counts = LedgerCounts()
        # why nothing is taken at the moment, empty while all is well
        self.problem = ""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def keep_days(self) -> int:
        """How long single requests are kept."""
        return self._retention.keep_days

    def start(self) -> None:
        """Start the thread."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread after its transaction."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        self._thread = None

    def take_pending(self) -> int:
        """Take what is waiting now, without the thread; return how many entries that were."""
        taken = 0
        while entries := self._store.ledger.pending(BATCH) or self._store.ledger.wait(BATCH, 0.001):
            self._take(entries)
            taken += len(entries)
        return taken

    def _run(self) -> None:
        is_pending = True
        while not self._stopping.is_set():
            try:
                # before entries are read: they are better kept where they are bounded and seen
                self._database.engine()
                # first as well: where a disk is full, what it removes makes room for what waits
                self._retention.run_if_due(self._database)
                entries = self._store.ledger.pending(BATCH) if is_pending else self._store.ledger.wait(BATCH, WAIT_S)
                is_pending = is_pending and bool(entries)
                self._take(entries)
                self._note_problem("")
            except BouchetError as exc:
                is_pending = True
                self._note_problem(exc.problem if isinstance(exc, LedgerUnavailableError) else str(exc))
                self._stopping.wait(PAUSE_S)
                continue
            except Exception:
                # a bug must not end the thread: entries would wait until they are dropped
                log.exception("ledger: unexpected error")
                is_pending = True
                self._stopping.wait(PAUSE_S)
                continue
            if entries and not is_pending and len(entries) < BATCH:
                self._stopping.wait(GATHER_S)

    def _take(self, entries: Sequence[WaitingEntry]) -> None:
        if not entries:
            return
        with self._database.begin() as connection:
            result = take_entries(connection, entries)
        self._store.ledger.acknowledge(entries)
        counts = self.counts
        counts.requests += result.requests
        counts.jobs += result.jobs
        counts.lost += result.lost
        counts.unreadable += result.unreadable
        if result.lost or result.unreadable:
            log.warning("ledger: %d entries were lost, %d cannot be read", result.lost, result.unreadable)

    def _note_problem(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.warning("ledger: %s; entries wait in Redis", problem)
        elif self.problem and not problem:
            log.info("ledger: works again")
        self.problem = problem


def waiting_entries(store: Store) -> int | None:
    """Return how many entries wait in Redis, None where it does not answer."""
    try:
        return store.ledger.waiting()
    except StoreError:
        return None
