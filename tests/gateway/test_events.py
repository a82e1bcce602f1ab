"""What the gateway tells of its tunnel: state, host, what it waits for; never the question or the answer."""

from __future__ import annotations

import asyncio
import json

from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelEvent, TunnelState
from bouchet_gateway.gateway import Gateway

from .conftest import LoginNode, Script, make_settings, reached, until


async def told(store: Store) -> list[TunnelEvent]:
    return [event for _, event in await asyncio.to_thread(store.tunnel.events, "0-0")]


async def states(store: Store) -> list[tuple[str, str]]:
    return [(event.state.value, event.waits_for) for event in await told(store)]


async def test_a_login_with_a_question_is_told_without_it(login_node: LoginNode, store: Store) -> None:
    login_node.script = Script([("Call from 555-1234", [("Passcode: ", False)])], lambda answers: True)
    gateway = Gateway(make_settings(login_node), store)
    async with gateway.running():
        await until(lambda: gateway.broker.prompt is not None)
        assert gateway.broker.prompt is not None
        gateway.broker.answer(gateway.broker.prompt.id, ["424242"])
        await reached(gateway, TunnelState.UP)
        await gateway.events.drain(2)
        assert await states(store) == [("connecting", ""), ("needs_human", "prompt"), ("connecting", ""), ("up", "")]
    assert (await states(store))[-1] == ("down", "")
    everything = json.dumps([event.model_dump(mode="json") for event in await told(store)])
    assert "424242" not in everything and "555-1234" not in everything and "Passcode" not in everything


async def test_a_host_key_that_waits_is_told(login_node: LoginNode, store: Store) -> None:
    (login_node.ssh_dir / "known_hosts").unlink()
    gateway = Gateway(make_settings(login_node), store)
    async with gateway.running():
        await reached(gateway, TunnelState.REFUSED)
        await gateway.events.drain(2)
        assert (await states(store))[-1] == ("refused", "host_key")


async def test_the_tries_of_an_outage_are_one_change(login_node: LoginNode, store: Store) -> None:
    gateway = Gateway(make_settings(login_node), store)
    async with gateway.running():
        await reached(gateway, TunnelState.UP)
        await login_node.stop()
        await until(lambda: gateway.tunnel.status().state is not TunnelState.UP)
        await asyncio.sleep(1.2)
        await login_node.start()
        await reached(gateway, TunnelState.UP)
        await gateway.events.drain(2)
        seen = await states(store)
    assert seen[:2] == [("connecting", ""), ("up", "")] and seen[-1] == ("up", "")
    assert set(seen[2:-1]) == {("down", "")} and len(seen) <= 5
