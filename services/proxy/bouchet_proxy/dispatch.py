"""From a checked request to its answer: find the deployment, wait for it where that helps, hand over to a carrier."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from bouchet_core.deployments import Phase
from bouchet_core.keys import job_key

from .asgi import ClientGoneError, Scope
from .dialects.endpoints import Endpoint, prepare
from .dialects.openai import wants_usage
from .dialects.token_limits import asks_too_much
from .errors import Failure, no_such_model, no_tools, not_ready, nothing_runs, over_limit, table_unknown, unreachable
from .http.connection import Wire
from .http.server_auth import Target
from .routing.affinity import Replicas, conversation_of
from .routing.table import Answer, Group, NoSuchModel, NothingRuns, Route, RoutingTable, Unknown, Waiting
from .settings import ProxySettings
from .streams.client import Client
from .upstream_request import Exchange, Reply
from .usage.request import Tally

# a lost tunnel is back within a minute, or somebody must log in anew
TUNNEL_HOLD_S = 60.0
LOOK_S, PING_S = 0.25, 10.0
# LiteLLM guesses at counts of tokens, and would turn these into chats and back: vLLM speaks them itself
ALWAYS_DIRECT = frozenset((Endpoint.COUNT_TOKENS, Endpoint.COMPLETIONS, Endpoint.RESPONSES, Endpoint.EMBEDDINGS))


class Carrier(Protocol):
    """Takes an exchange to its model and the answer back."""

    async def carry(self, exchange: Exchange, reply: Reply, scope: Scope) -> None:
        """Answers the client, whatever happens, or leaves `reply.unreachable`."""


class Lane(Carrier, Protocol):
    """The carrier that can also ask the model's tokenizer."""

    async def count(self, exchange: Exchange) -> int | None:
        """The tokens of a prompt of any length."""

    async def opens_thinking(self, exchange: Exchange) -> bool:
        """Whether the model's template ends the prompt inside a think block."""

    async def proves(self, exchange: Exchange) -> bool:
        """Whether the job's own server is there, and no other program on its port."""

    def asked(self, target: Target, head: bytes, body: bytes, silence_s: float) -> AbstractAsyncContextManager[Wire]:
        """A connection on which the server has begun to answer these bytes."""


class Refused(Exception):
    """The request ends here, with this failure."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.message)


@dataclass
class Call:
    """A checked request for a model. shown: the model's name as the client wrote it."""

    endpoint: Endpoint
    body: dict[str, Any]
    shown: str
    size_bytes: int
    tally: Tally

    @property
    def streams(self) -> bool:
        """Whether the client asked for a stream."""
        return self.body.get("stream") is True


class Serving:
    """Serves calls. `table` gives the routing table of the moment."""

    def __init__(
        self, settings: ProxySettings, table: Callable[[], RoutingTable], lane: Lane, litellm: Carrier
    ) -> None:
        self._settings, self._table = settings, table
        self._lane, self._litellm = lane, litellm
        self._replicas = Replicas()

    async def serve(self, call: Call, client: Client, scope: Scope) -> None:
        """Answers the client, or raises Refused, or ClientGoneError where it left while it was held."""
        hold, tried = Hold(self._settings.hold_starting_s if call.streams else 0.0, call, client), set[str]()
        try:
            while True:
                found = self._find(call, tried)
                if not isinstance(found, Route):
                    await hold.wait(found)
                    continue
                failure = await self._carry(call, found, client, scope, hold)
                if failure is None:
                    return
                if found.deployment in tried or not self._has_replicas(call):
                    tried.clear()
                    await hold.unreachable(failure)
                tried.add(found.deployment)
        finally:
            hold.end()

    def _find(self, call: Call, tried: set[str]) -> Answer:
        found = self._table().find(call.shown)
        if not isinstance(found, Group):
            return found
        routes = [route for route in found.routes if route.deployment not in tried] or found.routes
        return self._replicas.pick(routes, conversation_of(call.tally.session, call.body))

    def _has_replicas(self, call: Call) -> bool:
        return isinstance(self._table().find(call.shown), Group)

    async def _carry(self, call: Call, route: Route, client: Client, scope: Scope, hold: Hold) -> Failure | None:
        """None when the client has its answer; else why the model could not be reached."""
        exchange = self._exchange(call, route, client)
        if may_open(exchange):
            exchange.opened = await self._lane.opens_thinking(exchange)
        carrier = self._carrier(call.endpoint)
        if carrier is not self._lane and not await self._lane.proves(exchange):
            return unreachable(route.alias)
        reply = Reply(exchange, client, self._lane.count, may_wait=hold.may_wait or self._has_replicas(call))
        with self._replicas.open(route):
            await carrier.carry(exchange, reply, scope)
        return reply.unreachable

    def _exchange(self, call: Call, route: Route, client: Client) -> Exchange:
        tally = call.tally
        if tally.route is None:
            tally.clamped = asks_too_much(call.body, route.window)
            if (too_much := tally.admit(call.size_bytes)) is not None:
                raise Refused(over_limit(tally.caller.name, too_much))
        tally.routed(route)
        if route.no_tools and wants_tools(call.endpoint, call.body):
            raise Refused(no_tools(route.alias, route.no_tools))
        key = job_key(self._settings.serving_secret.get_secret_value(), route.job_name, route.sealed_key)
        prepared = prepare(call.endpoint, call.body, route)
        hidden = "stream_options" in prepared and not wants_usage(call.body)
        return Exchange(call.endpoint, client.dialect, route, call.shown, prepared, key, tally, hidden)

    def _carrier(self, endpoint: Endpoint) -> Carrier:
        direct = endpoint in ALWAYS_DIRECT or (self._settings.direct and endpoint is Endpoint.MESSAGES)
        return self._lane if direct else self._litellm


class Hold:
    """Keeps one client waiting with signs of life. limit_s: how long; 0 for clients that cannot be given any."""

    def __init__(self, limit_s: float, call: Call, client: Client) -> None:
        self._limit_s, self._live, self._client = limit_s, call.tally.live, client
        self._since: float | None = None
        self._lost_at: float | None = None
        self._pinged_at = 0.0

    @property
    def may_wait(self) -> bool:
        """Whether there is any time."""
        return self._limit_s > 0

    async def wait(self, found: Waiting | NothingRuns | NoSuchModel | Unknown | Group) -> None:
        """A little, if that may help; else raises Refused."""
        now = datetime.now(UTC)
        if not worth_waiting(found, now, self._limit_s):
            raise Refused(refusal(found, now))
        self._lost_at = None
        await self._pause(refusal(found, now))

    async def unreachable(self, failure: Failure) -> None:
        """The same for a deployment that is ready, but cannot be reached; for TUNNEL_HOLD_S in a row at most."""
        now = asyncio.get_running_loop().time()
        self._lost_at = self._lost_at or now
        if now - self._lost_at >= min(TUNNEL_HOLD_S, self._limit_s):
            raise Refused(failure)
        await self._pause(failure)

    async def _pause(self, failure: Failure) -> None:
        now = asyncio.get_running_loop().time()
        if self._since is None:
            self._since = now
            self._live.held += 1
        if now - self._since >= self._limit_s:
            raise Refused(failure)
        await self._client.open_stream()
        if now - self._pinged_at >= PING_S:
            self._pinged_at = now
            await self._client.ping()
        if await self._client.left_within(LOOK_S):
            raise ClientGoneError

    def end(self) -> None:
        """No longer held."""
        if self._since is not None:
            self._live.held -= 1


def wants_tools(endpoint: Endpoint, body: Mapping[str, Any]) -> bool:
    """Whether the answer may have to be a tool call; to count a prompt needs none."""
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    return endpoint is not Endpoint.COUNT_TOKENS and bool(body.get("tools")) and kind != "none"


def may_open(exchange: Exchange) -> bool:
    """Whether an answer can begin inside a think block: vLLM itself parts thoughts from text where it has a parser."""
    traits = exchange.route.traits
    thinks = traits.thinking != "none" and traits.reasoning_parser is None
    return thinks and exchange.endpoint in (Endpoint.MESSAGES, Endpoint.CHAT)


def worth_waiting(found: object, now: datetime, limit_s: float) -> bool:
    """Whether what was found may be ready within that time: not if Slurm itself expects otherwise."""
    if limit_s <= 0:
        return False
    if isinstance(found, Unknown):
        return True
    if not isinstance(found, Waiting) or found.phase in (Phase.DRAINING, Phase.ENDED):
        return False
    expected = found.start_estimate if found.phase is Phase.QUEUED else None
    return expected is None or expected - now <= timedelta(seconds=limit_s)


def refusal(found: object, now: datetime) -> Failure:
    """Why there is no answer, in words."""
    match found:
        case Waiting():
            return not_ready(found, now)
        case NothingRuns():
            return nothing_runs(found)
        case NoSuchModel():
            return no_such_model(found)
        case _:
            return table_unknown()
