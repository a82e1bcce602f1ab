"""How long rows are kept: requests for LEDGER_KEEP_DAYS and within LEDGER_MAX_MB, sums and jobs for ever.

Sums of a year take some 20 MB, jobs far less: what was used and what it cost stays known.
"""

from __future__ import annotations

import logging
import time

import sqlalchemy as sa

from .database import LedgerDatabase
from .tables import DAY_S, requests

RUN_EVERY_S = 6 * 3600.0
# of one transaction: a longer one would keep new entries waiting
ROWS_AT_ONCE = 20_000

log = logging.getLogger(__name__)


class Retention:
    """Removes old rows some times a day."""

    def __init__(self, keep_days: int, max_mb: int) -> None:
        self.keep_days, self.max_mb = keep_days, max_mb
        self._ran_at = float("-inf")

    def run_if_due(self, database: LedgerDatabase) -> None:
        """Remove old rows if that was not done lately. Raises LedgerUnavailableError."""
        if time.monotonic() - self._ran_at >= RUN_EVERY_S:
            self.run(database, time.time())
            self._ran_at = time.monotonic()

    def run(self, database: LedgerDatabase, now: float) -> int:
        """Remove requests that are too old, then the oldest ones while the database is too large; return how many."""
        removed = _remove_before(database, now - self.keep_days * DAY_S)
        # PostgreSQL gives the space of removed rows back only in its own time
        while database.is_sqlite and (size := database_bytes(database)) > self.max_mb << 20:
            with database.read() as connection:
                oldest = connection.scalar(sa.select(sa.func.min(requests.c.at)))
            if oldest is None or oldest > now - DAY_S:
                log.warning("ledger: %d MB, more than LEDGER_MAX_MB=%d without old requests", size >> 20, self.max_mb)
                break
            removed += _remove_before(database, (int(oldest) // DAY_S + 1) * DAY_S)
        if removed:
            log.info("ledger: removed %d requests that were too old or too many", removed)
        return removed


def database_bytes(database: LedgerDatabase) -> int:
    """Return the size of what is stored; free pages of a file, which new rows fill, do not count."""
    with database.read() as connection:
        if not database.is_sqlite:
            return int(connection.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0)
        pages = connection.scalar(sa.text("PRAGMA page_count")) - connection.scalar(sa.text("PRAGMA freelist_count"))
        return int(pages * connection.scalar(sa.text("PRAGMA page_size")))


def _remove_before(database: LedgerDatabase, moment: float) -> int:
    removed = 0
    while True:
        with database.begin() as connection:
            ids = sa.select(requests.c.id).where(requests.c.at < moment).limit(ROWS_AT_ONCE)
            count = connection.execute(sa.delete(requests).where(requests.c.id.in_(ids))).rowcount
        removed += count
        if count < ROWS_AT_ONCE:
            return removed
