"""What is known of the cluster: orphans, the outage and the tunnel's changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bouchet_core.deployments import Orphan
from bouchet_core.store import FIRST_EVENT, Store
from bouchet_core.tunnel import TunnelEvent, TunnelState

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def test_outage_keeps_its_beginning_until_cleared(store: Store) -> None:
    assert store.outage.current() is None
    store.outage.record("squeue hangs", NOW)
    store.outage.record("sacct hangs", NOW + timedelta(seconds=20))
    outage = store.outage.current()
    assert outage is not None and (outage.since, outage.detail) == (NOW, "sacct hangs")
    store.outage.clear()
    assert store.outage.current() is None


def test_orphans_are_replaced_whole(store: Store) -> None:
    assert store.orphans.seen() == ()
    orphans = [Orphan(slurm_id=n, name=f"bouchet-x-{n}", state="RUNNING", owner="this") for n in (1, 2)]
    store.orphans.keep(orphans)
    assert store.orphans.seen() == tuple(orphans)
    store.orphans.keep([])
    assert store.orphans.seen() == ()


def test_epoch_changes_only_with_the_data(store: Store) -> None:
    first = store.orphans.epoch()
    assert store.orphans.epoch() == first
    connection = store.queue_connection()
    connection.flushall()
    connection.close()
    assert store.orphans.epoch() != first


def test_tunnel_events_are_oldest_first_after_an_id(store: Store) -> None:
    assert store.tunnel.last_event() == FIRST_EVENT
    changes = [TunnelEvent(state=state, host="login", at=NOW) for state in (TunnelState.CONNECTING, TunnelState.UP)]
    for change in changes:
        store.tunnel.append(change)
    events = store.tunnel.events(FIRST_EVENT)
    assert [event for _, event in events] == changes
    assert store.tunnel.events(events[0][0]) == events[1:]
    assert store.tunnel.last_event() == events[-1][0]
