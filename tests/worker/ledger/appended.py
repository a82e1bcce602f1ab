"""Entries that the worker has appended for the ledger."""

from __future__ import annotations

from typing import Any

from bouchet_core.ledger import AccountingEntry, JobEntry, parse_entry

from tests.conftest import RedisServer


def read_entries(server: RedisServer) -> list[JobEntry | AccountingEntry]:
    """Return all entries, oldest first."""
    store = server.store()
    client: Any = store.queue_connection()
    found = [parse_entry({"body": fields[b"body"].decode()}) for _, fields in client.xrange("bouchet:ledger:jobs")]
    client.close()
    store.close()
    return [one for one in found if one is not None]
