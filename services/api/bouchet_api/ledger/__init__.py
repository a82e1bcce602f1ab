"""The ledger: a database of requests and jobs, filled from the streams that proxy and worker append."""

from __future__ import annotations

from dataclasses import dataclass

from bouchet_core.errors import ConfigurationError
from bouchet_core.store import Store

from bouchet_api.settings import ApiSettings

from .consumer import LedgerConsumer
from .database import LedgerDatabase, LedgerUnavailableError, database_url
from .retention import Retention

__all__ = ["Ledger", "LedgerUnavailableError", "open_ledger"]


@dataclass(frozen=True)
class Ledger:
    """The database, and the thread that fills it."""

    database: LedgerDatabase
    consumer: LedgerConsumer


def open_ledger(settings: ApiSettings, store: Store) -> Ledger:
    """Return the ledger of these settings; nothing is connected before it is used.

    A URL of another kind is a database that does not work, as one is whose server does not answer.
    """
    configured = settings.db_url.get_secret_value() if settings.db_url else None
    try:
        database = LedgerDatabase(database_url(configured, settings.ledger_dir))
    except ConfigurationError as exc:
        database = LedgerDatabase(None, f"{exc}; correct it in .env and run `make up`")
    retention = Retention(settings.ledger_keep_days, settings.ledger_max_mb)
    return Ledger(database, LedgerConsumer(store, database, retention))
