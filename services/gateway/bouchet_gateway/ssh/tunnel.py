"""The tunnel: keeps exactly one SSH session up, says what it is doing, and hands it to whoever waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from bouchet_core.errors import BouchetError, HumanNeededError, TunnelDownError
from bouchet_core.tunnel import LoginPrompt, TunnelState, TunnelStatus

from .backoff import Cause, cause_of, next_try
from .connect import Connector
from .prompts import PromptBroker
from .session import Session
from .trusted_hosts import TrustedHosts

log = logging.getLogger(__name__)

# a connection that lived so long was a good one: the next failure is the first of a new row
STEADY_AFTER_S = 30.0
NUDGE_INTERVAL_S = 1.0
ROUND_TRIP_EVERY_S, ROUND_TRIP_TIMEOUT_S = 30.0, 10.0
_WAITS_FOR_HUMAN = frozenset({TunnelState.NEEDS_HUMAN, TunnelState.REFUSED})


class Tunnel:
    """One SSH connection, opened again whenever it is lost. `run` is its life; everything else only looks or waits."""

    def __init__(self, connector: Connector, broker: PromptBroker, trusted: TrustedHosts) -> None:
        self._connector, self._broker, self._trusted = connector, broker, trusted
        self._session: Session | None = None
        self._status = TunnelStatus(
            state=TunnelState.CONNECTING, host=connector.host, since=_now(), detail="starting", connections=0
        )
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._cause = Cause.NETWORK
        self._streak = 0
        self._tried_at = 0.0
        self._logins = 0
        self._last_error = ""
        self._round_trip_s: float | None = None
        self._logged: tuple[TunnelState, str] | None = None
        self.on_change: Callable[[TunnelStatus], None] = lambda status: None
        broker.on_change = self._on_prompt

    def status(self, open_channels: int = 0) -> TunnelStatus:
        """What the tunnel is doing now."""
        return self._status.model_copy(
            update={
                "host": self._connector.host,
                "prompt": self._broker.prompt,
                "host_key": self._trusted.offered.shown if self._trusted.offered else None,
                "connections": 1 if self._session else 0,
                "reconnects": max(0, self._logins - 1),
                "last_error": self._last_error,
                "round_trip_ms": round(self._round_trip_s * 1000, 2) if self._round_trip_s is not None else None,
                "open_channels": open_channels,
                "nodes": self._session.nodes.words() if self._session else {},
            }
        )

    def connect_now(self) -> None:
        """A person asks: try at once, and count failures anew. Nothing happens while up or trying."""
        self._streak = 0
        self._wake.set()

    def trust(self, fingerprint: str) -> None:
        """A person accepts the host key with that fingerprint: it is kept, and the connection tried at once."""
        self._trusted.trust(fingerprint)
        self.connect_now()

    def forget(self, place: str) -> None:
        """A person no longer trusts what was accepted for that host."""
        self._trusted.forget(place)
        self.connect_now()

    async def session(self, wait_s: float, *, patient: bool = False) -> Session:
        """The connection, waiting up to wait_s for it.

        Raises TunnelDownError, and HumanNeededError: at once, or after wait_s when patient.
        """
        self._nudge()
        try:
            async with asyncio.timeout(wait_s):
                # a session may be over a moment before `run` hears of it
                while self._session is None or self._session.lost.done():
                    if not patient and self._status.state in _WAITS_FOR_HUMAN:
                        raise self._unavailable()
                    await self._changed.wait()
                return self._session
        except TimeoutError as exc:
            raise self._unavailable() from exc

    async def run(self) -> None:
        """Connects, watches, connects again; ends when cancelled, the connection closed."""
        try:
            while True:
                await self._once()
        finally:
            await self._close()

    async def _once(self) -> None:
        self._tried_at = _monotonic()
        self._wake.clear()
        self._become(TunnelState.CONNECTING, f"connecting to {self._connector.host}")
        try:
            host = self._connector.host
            self._session = Session(await self._connector.connect(), host, self._connector)
        except BouchetError as error:
            await self._pause(cause_of(error), str(error))
            return
        except Exception as error:
            # whatever it is, the owner of the connection must live to try again
            log.exception("tunnel host=%s failed in a way nobody foresaw", self._connector.host)
            await self._pause(Cause.CONFIGURATION, f"{type(error).__name__}: {error}")
            return
        self._logins += 1
        self._become(TunnelState.UP, "")
        reason = await self._watch(self._session)
        await self._pause(Cause.NETWORK, f"the connection was lost: {reason}")

    async def _watch(self, session: Session) -> str:
        """Waits for the end of the connection; the reason in words."""
        since = _monotonic()
        measuring = asyncio.get_running_loop().create_task(self._measure(session))
        try:
            reason = await asyncio.shield(session.lost)
        finally:
            measuring.cancel()
            if session.lost.done():
                self._session = None
        if _monotonic() - since >= STEADY_AFTER_S:
            self._streak = 0
        return reason

    async def _measure(self, session: Session) -> None:
        """Now and then the time to the login node and back, for people who wonder why it is slow."""
        while True:
            with contextlib.suppress(BouchetError, TimeoutError):
                self._round_trip_s = await session.round_trip_s(ROUND_TRIP_TIMEOUT_S)
            await asyncio.sleep(ROUND_TRIP_EVERY_S)

    async def _pause(self, cause: Cause, detail: str) -> None:
        """Waits as the cause demands, or until somebody asks for a connection."""
        self._cause, self._streak = cause, self._streak + 1
        self._last_error = detail
        self._round_trip_s = None
        step = next_try(cause, self._streak, random.random())
        retry_at = None if step.delay_s is None else _now() + timedelta(seconds=step.delay_s)
        self._become(step.state, detail, retry_at)
        try:
            async with asyncio.timeout(step.delay_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def _nudge(self) -> None:
        """Somebody needs the connection: no need to sit out a long back-off while only the network is in the way."""
        waiting = self._session is None and self._cause is Cause.NETWORK
        if waiting and _monotonic() - self._tried_at >= NUDGE_INTERVAL_S:
            self._wake.set()

    def _unavailable(self) -> BouchetError:
        status = self._status
        kind: Callable[[str], BouchetError] = HumanNeededError if status.state in _WAITS_FOR_HUMAN else TunnelDownError
        if status.state is TunnelState.NEEDS_HUMAN and self._broker.prompt is not None:
            who = self._broker.prompt.host or f"the login to {self._connector.host}"
            return kind(f"{who} asks a question; `bouchet tunnel` shows it and takes the answer")
        return kind(f"no SSH connection to {self._connector.host}: {status.detail}")

    def _on_prompt(self, prompt: LoginPrompt | None) -> None:
        if prompt is not None:
            who = prompt.host or "the login"
            self._become(TunnelState.NEEDS_HUMAN, f"{who} waits for an answer: `bouchet tunnel`")
        elif self._session is None:
            self._become(TunnelState.CONNECTING, "waiting for the server to accept the answer")

    def _become(self, state: TunnelState, detail: str, retry_at: datetime | None = None) -> None:
        was = self._status
        # tries in between do not make a long outage a short one
        same = state is was.state or {state, was.state} == {TunnelState.DOWN, TunnelState.CONNECTING}
        since = was.since if same else _now()
        self._status = was.model_copy(update={"state": state, "since": since, "detail": detail, "retry_at": retry_at})
        if state is not TunnelState.CONNECTING and (state, detail) != self._logged:
            self._logged = (state, detail)
            log.info("tunnel host=%s state=%s detail=%r", self._connector.host, state, detail)
        self.on_change(self.status())
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _close(self) -> None:
        session, self._session = self._session, None
        self._become(TunnelState.DOWN, "the gateway is stopping")
        if session is not None:
            await session.close()


def _now() -> datetime:
    return datetime.now(UTC)


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
