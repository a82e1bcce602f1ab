"""From a checked request to its response: find the deployment, wait for it where that helps, and send to a backend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from bouchet_core.deployments import Phase
from bouchet_core.keys import job_key

from .api_keys import cache_salt
from .asgi import ClientDisconnectedError, Scope
from .backends.direct import DirectBackend
from .dialects.continuation import MOST_CONTINUATIONS, PartialAnswer, continuation_body, may_continue
from .dialects.endpoints import COUNTING, Endpoint, prepare
from .dialects.left_out import notes_for_client
from .dialects.openai import for_other_server, wants_usage
from .dialects.tokens import Body, exceeds_window
from .errors import ProxyError, stream_interrupted, tools_unavailable, unavailable, unreachable
from .routing.affinity import ReplicaSelector, conversation_id
from .routing.load import LoadTracker
from .routing.table import LookupResult, NotReady, ReplicaGroup, Route, RoutingTable, TableNotLoaded
from .settings import ProxySettings
from .streams.empty_answer import ask_for_one, wants_nothing
from .streams.response_writer import ResponseWriter
from .upstream_request import Backend, UpstreamRequest
from .usage.request import ActiveRequests, RequestUsage

# with DIRECT=off, too: LiteLLM only estimates token counts, and would convert these endpoints to chats and back
ALWAYS_DIRECT = frozenset((Endpoint.COUNT_TOKENS, Endpoint.COMPLETIONS, Endpoint.RESPONSES, Endpoint.EMBEDDINGS))
# what a model generates for; nothing else reads its prefix cache
SALTED = frozenset((Endpoint.MESSAGES, Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES))
POLL_S, PING_S = 0.25, 10.0


@dataclass
class ClientRequest:
    """A checked request for a model. model_name: as the client wrote it; scope: ASGI's.

    restarted: it was sent again, as its server ended. begun: the client has the beginning of an answer of that server.
    partial: what the client has of an answer whose server ended, which another one may go on with.
    """

    endpoint: Endpoint
    body: dict[str, Any]
    model_name: str
    usage: RequestUsage
    scope: Scope
    restarted: bool = False
    begun: bool = False
    partial: PartialAnswer | None = field(default=None, repr=False)

    @property
    def wants_stream(self) -> bool:
        """Whether the client asked for a stream."""
        return self.body.get("stream") is True


class Dispatcher:
    """Serves client requests. `table` returns the current routing table."""

    def __init__(
        self,
        settings: ProxySettings,
        table: Callable[[], RoutingTable],
        direct: DirectBackend,
        litellm: Backend,
        load: LoadTracker,
    ) -> None:
        self._settings, self._table, self._load = settings, table, load
        self._direct, self._litellm = direct, litellm
        self._replicas = ReplicaSelector()

    async def serve(self, request: ClientRequest, writer: ResponseWriter) -> None:
        """Write the response. Raises ProxyError, and ClientDisconnectedError if the client left while it waited."""
        limit_s, attempted = self._settings.hold_starting_s if request.wants_stream else 0.0, set[tuple[str, str]]()
        with ReadinessWait(limit_s, self._settings.hold_tunnel_s, request.usage.active, writer) as wait:
            while True:
                found = self._find_route(request, attempted)
                if request.partial is not None:
                    check_continuation(found, request.partial)
                if not isinstance(found, Route):
                    await self._wait_for_model(wait, found)
                    continue
                may_retry, partial = wait.is_allowed or self._has_replicas(request), request.partial
                wait.end()
                # counted from here on: its job is not ended before this request has
                with self._load.track(found.job_name):
                    error = await self._send(request, found, writer, may_retry=may_retry)
                if error is None:
                    return
                if request.partial != partial:
                    wait.renew()
                if found.identity in attempted or not self._has_replicas(request):
                    attempted.clear()
                    await wait.wait_for_tunnel(error)
                attempted.add(found.identity)

    async def count(self, request: ClientRequest, writer: ResponseWriter) -> int:
        """Return how many tokens the prompt of a request has, however long it is. Raises ProxyError."""
        found = self._find_route(request, set())
        if not isinstance(found, Route):
            raise unavailable(found, datetime.now(UTC))
        return await self._direct.count_prompt(self._prepare(request, found, writer))

    async def _wait_for_model(self, wait: ReadinessWait, found: LookupResult) -> None:
        """Wait a moment, and ask for a model that a request starts. Raises ProxyError if waiting cannot help."""
        if not isinstance(found, NotReady):
            await wait.wait_for_model(found)
            return
        if found.wakes:
            self._load.want(found.deployment)
        with self._load.hold(found.deployment):
            await wait.wait_for_model(found)

    def _find_route(self, request: ClientRequest, attempted: set[tuple[str, str]]) -> LookupResult:
        found = self._table().find(request.model_name)
        if not isinstance(found, ReplicaGroup):
            return found
        routes = [route for route in found.routes if route.identity not in attempted] or found.routes
        return self._replicas.select(routes, conversation_id(request.usage.session, request.body))

    def _has_replicas(self, request: ClientRequest) -> bool:
        return isinstance(self._table().find(request.model_name), ReplicaGroup)

    async def _send(
        self, request: ClientRequest, route: Route, writer: ResponseWriter, *, may_retry: bool
    ) -> ProxyError | None:
        """Return None when the client has its response; else why the model could not be reached."""
        upstream = self._prepare(request, route, writer)
        upstream.may_retry, upstream.may_restart = may_retry, not request.restarted
        if upstream.before is None and needs_think_probe(upstream):
            upstream.starts_inside = await self._direct.starts_inside_think_block(upstream)
        translates = route.translates and request.endpoint is Endpoint.MESSAGES
        backend = self._litellm if translates else self._backend(request.endpoint)
        backend = self._direct if request.partial is not None else backend
        if backend is not self._direct and not await self._direct.verify_server(upstream):
            return unreachable(route.alias)
        with self._replicas.track(route):
            await backend.send(upstream, request.scope)
        request.restarted = request.restarted or upstream.restarts
        request.begun, request.partial = upstream.has_begun, upstream.partial
        return upstream.unreachable

    def _prepare(self, request: ClientRequest, route: Route, writer: ResponseWriter) -> UpstreamRequest:
        usage = request.usage
        if usage.route is None:
            usage.clamped = exceeds_window(request.body, route.window)
        usage.set_route(route)
        if route.no_tools and wants_tools(usage.endpoint, request.body):
            raise tools_unavailable(route.alias, route.no_tools)
        body, is_empty = prepare(request.endpoint, request.body, route), wants_nothing(request.endpoint, request.body)
        body = ask_for_one(body) if is_empty else body
        body = self._salted(request, body) if route.is_vllm else for_other_server(body)
        if request.partial is not None:
            body = continuation_body(request.endpoint, body, request.partial)
        return UpstreamRequest(
            endpoint=request.endpoint,
            route=route,
            model_name=request.model_name,
            body=body,
            key=job_key(self._settings.serving_secret.get_secret_value(), route.job_name, route.sealed_key),
            usage=usage,
            writer=writer,
            count_tokens=self._direct.count_tokens,
            begun=request.begun,
            before=request.partial,
            may_continue=self._may_continue(request),
            is_current=lambda: self._table().has_server(route),
            hide_usage="stream_options" in body and not wants_usage(request.body),
            note=notes_for_client(request.body, route.traits),
            client_body=request.body,
            is_empty=is_empty,
        )

    def _may_continue(self, request: ClientRequest) -> bool:
        is_direct = self._backend(request.endpoint) is self._direct
        is_on = self._settings.continue_answers and request.usage.continued < MOST_CONTINUATIONS
        return is_on and is_direct and may_continue(request.endpoint, request.body)

    def _salted(self, request: ClientRequest, body: Body) -> Body:
        salt = cache_salt(request.usage.caller, self._settings.serving_secret.get_secret_value())
        return body if salt is None or request.endpoint not in SALTED else {**body, "cache_salt": salt}

    def _backend(self, endpoint: Endpoint) -> Backend:
        return self._direct if self._settings.direct or endpoint in ALWAYS_DIRECT else self._litellm


def check_continuation(found: LookupResult, partial: PartialAnswer) -> None:
    """Raise ProxyError where no server will go on with an answer: no other job has that model, or is on its way."""
    is_coming = isinstance(found, TableNotLoaded) or (isinstance(found, NotReady) and found.wakes)
    if not (is_coming or (isinstance(found, Route) and found.model == partial.model)):
        alias = found.alias if isinstance(found, Route | NotReady) else partial.model
        raise stream_interrupted(alias)


def wants_tools(endpoint: Endpoint, body: Mapping[str, Any]) -> bool:
    """Return whether the answer may be a tool call; counting a prompt needs no tools."""
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    return endpoint not in COUNTING and bool(body.get("tools")) and kind != "none"


def needs_think_probe(request: UpstreamRequest) -> bool:
    """Return whether an answer may begin inside a think block: vLLM separates those only with a reasoning parser."""
    traits = request.route.traits
    thinks = traits.thinking != "none" and traits.reasoning_parser is None
    return thinks and request.endpoint in (Endpoint.MESSAGES, Endpoint.CHAT)


class ReadinessWait:
    """The waiting time of one request, with pings to its client. A context manager: it counts the request as waiting.

    limit_s: the longest wait; 0 for a client that cannot be sent pings, because it did not ask for a stream.
    tunnel_s: the longest wait for a model that cannot be reached.
    """

    def __init__(self, limit_s: float, tunnel_s: float, active: ActiveRequests, writer: ResponseWriter) -> None:
        self._limit_s, self._tunnel_s = limit_s, tunnel_s
        self._active, self._writer = active, writer
        # what it has waited before, and since when it waits now
        self._waited_s, self._waits_since = 0.0, 0.0
        self._unreachable_since: float | None = None
        self._is_cut = False
        self._pinged_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Count no more time: the request is with a server, or has ended."""
        self._set_cut(False)
        if self._waits_since:
            self._waited_s += asyncio.get_running_loop().time() - self._waits_since
            self._waits_since = 0.0
            self._active.waiting -= 1

    def renew(self) -> None:
        """Give the request its whole time again: its client has got a part of the answer since it waited."""
        self._waited_s, self._unreachable_since = 0.0, None

    @property
    def is_allowed(self) -> bool:
        """Whether the request may wait at all."""
        return self._limit_s > 0

    async def wait_for_model(self, found: LookupResult) -> None:
        """Wait one poll interval, or raise ProxyError if waiting cannot help or the time is up."""
        now = datetime.now(UTC)
        if not is_worth_waiting(found, now, self._limit_s):
            raise unavailable(found, now)
        self._unreachable_since = None
        self._set_cut(False)
        await self._pause(unavailable(found, now))

    async def wait_for_tunnel(self, error: ProxyError) -> None:
        """Do the same for a ready model that cannot be reached; for tunnel_s in a row at most."""
        now = asyncio.get_running_loop().time()
        self._unreachable_since = self._unreachable_since or now
        if now - self._unreachable_since >= min(self._tunnel_s, self._limit_s):
            raise error
        self._set_cut(self.is_allowed)
        await self._pause(error)

    def _set_cut(self, is_cut: bool) -> None:
        """Count the request as one that waits for the link, or no longer."""
        self._active.cut += int(is_cut) - int(self._is_cut)
        self._is_cut = is_cut

    async def _pause(self, error: ProxyError) -> None:
        now = asyncio.get_running_loop().time()
        if not self._waits_since:
            self._waits_since = now
            self._active.waiting += 1
        if self._waited_s + now - self._waits_since >= self._limit_s:
            raise error
        await self._writer.start_events()
        if now - self._pinged_at >= PING_S or self._pinged_at == 0.0:
            self._pinged_at = now
            await self._writer.ping()
        if await self._writer.disconnects_within(POLL_S):
            raise ClientDisconnectedError


def is_worth_waiting(found: LookupResult, now: datetime, limit_s: float) -> bool:
    """Return whether the model may be ready within that time: not if Slurm expects it to start later."""
    if limit_s <= 0:
        return False
    if isinstance(found, TableNotLoaded):
        return True
    # when a server of others comes back is not known
    if not isinstance(found, NotReady) or found.phase is Phase.ENDED or found.attached:
        return False
    if found.phase in (Phase.DRAINING, Phase.PARKED):
        return found.wakes
    expected = found.start_estimate if found.phase is Phase.QUEUED else None
    return expected is None or expected - now <= timedelta(seconds=limit_s)
