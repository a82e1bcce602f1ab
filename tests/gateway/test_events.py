"""Tunnel events in the store: state, host and what is waited for; never a prompt or an answer."""

from __future__ import annotations

import asyncio
import json

import pytest
from bouchet_core.store import FIRST_EVENT, Store
from bouchet_core.tunnel import TunnelEvent, TunnelState, TunnelStatus
from bouchet_gateway import gateway as events
from bouchet_gateway.gateway import TunnelEventPublisher

from tests.conftest import RedisServer

from .login_node import LoginNode, PromptScript
from .running import answer_prompt, connected, started, wait_for_prompt, wait_for_state, wait_until


async def published(store: Store) -> list[TunnelEvent]:
    return [event for _, event in await asyncio.to_thread(store.tunnel.events, FIRST_EVENT)]


async def changes(store: Store) -> list[tuple[str, str]]:
    return [(event.state.value, event.waits_for) for event in await published(store)]


async def test_login_with_prompt_is_published_without_its_text(login_node: LoginNode, store: Store) -> None:
    login_node.script = PromptScript([("Call from 555-1234", [("Passcode: ", False)])], lambda answers: True)
    async with started(login_node, store) as gateway:
        await answer_prompt(gateway, await wait_for_prompt(gateway), "424242")
        await wait_for_state(gateway, TunnelState.UP)
        await gateway.events.drain(2)
        assert await changes(store) == [("connecting", ""), ("needs_human", "prompt"), ("connecting", ""), ("up", "")]
    assert (await changes(store))[-1] == ("down", "")
    everything = json.dumps([event.model_dump(mode="json") for event in await published(store)])
    assert "424242" not in everything and "555-1234" not in everything and "Passcode" not in everything


async def test_refused_host_key_is_published(login_node: LoginNode, store: Store) -> None:
    (login_node.ssh_dir / "known_hosts").unlink()
    async with started(login_node, store) as gateway:
        await wait_for_state(gateway, TunnelState.REFUSED)
        await gateway.events.drain(2)
        assert (await changes(store))[-1] == ("refused", "host_key")


async def test_attempts_within_outage_are_one_change(login_node: LoginNode, store: Store) -> None:
    async with connected(login_node, store) as gateway:
        await login_node.stop()
        await wait_until(lambda: gateway.tunnel.status().state is not TunnelState.UP)
        await asyncio.sleep(0.8)
        await login_node.start()
        await wait_for_state(gateway, TunnelState.UP)
        await gateway.events.drain(2)
        seen = await changes(store)
    assert seen[:2] == [("connecting", ""), ("up", "")] and seen[-1] == ("up", "")
    assert set(seen[2:-1]) == {("down", "")} and len(seen) <= 5


async def test_store_down_drops_oldest_events_and_logs_once(
    store: Store, redis_server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MAX_QUEUED", 3)
    publisher = TunnelEventPublisher(store)
    status = TunnelStatus.model_validate({"state": "down", "host": "h", "since": "2026-11-22T12:00:00Z"})
    for number in range(10):
        publisher.publish(status.model_copy(update={"detail": str(number)}))
    running = asyncio.create_task(publisher.run())
    await publisher.drain(30)
    assert [event.detail for event in await published(store)] == ["7", "8", "9"]
    redis_server.stop()
    for detail in ("lost", "lost too"):
        publisher.publish(status.model_copy(update={"detail": detail}))
    await publisher.drain(30)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(caplog.records) == 1
