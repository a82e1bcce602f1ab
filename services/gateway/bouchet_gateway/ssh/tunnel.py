"""The tunnel: keeps exactly one SSH session up, reports its state, and lends the session to those that wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from bouchet_core.errors import BouchetError, HumanNeededError, TunnelDownError
from bouchet_core.tunnel import LoginPrompt, TunnelState, TunnelStatus

from bouchet_gateway.settings import SshSettings

from .connect import Connector
from .failures import FailureCause, cause_of, next_retry
from .host_keys import TrustedHosts
from .prompts import PromptBroker
from .session import Session

log = logging.getLogger(__name__)

# a connection that stayed up this long resets the failure count
STABLE_AFTER_S = 30.0
WAKE_INTERVAL_S = 1.0
ROUND_TRIP_INTERVAL_S, ROUND_TRIP_TIMEOUT_S = 30.0, 10.0
_WAITS_FOR_HUMAN = frozenset({TunnelState.NEEDS_HUMAN, TunnelState.REFUSED})


def _ignore(status: TunnelStatus) -> None:
    """Take no notice of a change."""


class Tunnel:
    """One SSH connection, opened again whenever it is lost. `run` keeps it up; everything else only reads or waits."""

    def __init__(
        self,
        settings: SshSettings,
        prompt_timeout_s: float,
        auto_answer: str | None = None,
        on_change: Callable[[TunnelStatus], None] = _ignore,
    ) -> None:
        """auto_answer: see PromptBroker. on_change: called with every new status."""
        self.broker = PromptBroker(prompt_timeout_s, auto_answer, self._on_prompt)
        self._trusted = TrustedHosts(settings.trusted_hosts)
        self._connector = Connector(settings, self.broker, self._trusted)
        self._on_change = on_change
        self._session: Session | None = None
        self._status = TunnelStatus(
            state=TunnelState.CONNECTING, host=self._connector.host, since=_now(), detail="starting", connections=0
        )
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._cause = FailureCause.NETWORK
        self._failures = 0
        self._tried_at = 0.0
        self._logins = 0
        self._last_error = ""
        self._round_trip_s: float | None = None
        self._logged: tuple[TunnelState, str] | None = None

    def status(self, open_channels: int = 0) -> TunnelStatus:
        """Return the current status."""
        refused = self._trusted.refused
        return self._status.model_copy(
            update={
                "host": self._connector.host,
                "prompt": self.broker.prompt,
                "host_key": refused.shown if refused else None,
                "connections": 1 if self._session else 0,
                "reconnects": max(0, self._logins - 1),
                "last_error": self._last_error,
                "round_trip_ms": round(self._round_trip_s * 1000, 2) if self._round_trip_s is not None else None,
                "open_channels": open_channels,
                "nodes": self._session.nodes.problems() if self._session else {},
            }
        )

    def connect_now(self) -> None:
        """Connect at once and reset the failure count, as a person asked. Does nothing while up or connecting."""
        self._failures = 0
        self._wake.set()

    def trust(self, fingerprint: str) -> None:
        """Accept the refused host key with that fingerprint, and connect at once."""
        self._trusted.trust(fingerprint)
        self.connect_now()

    def forget(self, place: str) -> None:
        """Remove the host keys that were accepted for that host, and connect at once."""
        self._trusted.forget(place)
        self.connect_now()

    async def session(self, timeout_s: float, *, wait_for_human: bool = False) -> Session:
        """Return the session, waiting up to timeout_s for it.

        Raises TunnelDownError, and HumanNeededError: at once, or after timeout_s with wait_for_human.
        """
        self._shorten_backoff()
        try:
            async with asyncio.timeout(timeout_s):
                # a session may be lost a moment before `run` notices
                while self._session is None or self._session.lost.done():
                    if not wait_for_human and self._status.state in _WAITS_FOR_HUMAN:
                        raise self._unavailable()
                    await self._changed.wait()
                return self._session
        except TimeoutError as exc:
            raise self._unavailable() from exc

    async def run(self) -> None:
        """Connect, watch, and connect again until cancelled; then close the connection."""
        try:
            while True:
                await self._connect_and_watch()
        finally:
            await self._close()

    async def _connect_and_watch(self) -> None:
        self._tried_at = _monotonic()
        self._wake.clear()
        self._set_state(TunnelState.CONNECTING, f"connecting to {self._connector.host}")
        try:
            host = self._connector.host
            self._session = Session(await self._connector.connect(), host, self._connector)
        except BouchetError as error:
            await self._wait_for_retry(cause_of(error), str(error))
            return
        except Exception as error:
            # whatever the error is, the task that owns the connection must go on and try again
            log.exception("tunnel host=%s unexpected error", self._connector.host)
            await self._wait_for_retry(FailureCause.CONFIGURATION, f"{type(error).__name__}: {error}")
            return
        self._logins += 1
        self._set_state(TunnelState.UP, "")
        reason = await self._watch(self._session)
        await self._wait_for_retry(FailureCause.NETWORK, f"the connection was lost: {reason}")

    async def _watch(self, session: Session) -> str:
        """Wait for the end of the connection; return the reason."""
        since = _monotonic()
        measuring = asyncio.get_running_loop().create_task(self._measure(session))
        try:
            reason = await asyncio.shield(session.lost)
        finally:
            measuring.cancel()
            if session.lost.done():
                self._session = None
        if _monotonic() - since >= STABLE_AFTER_S:
            self._failures = 0
        return reason

    async def _measure(self, session: Session) -> None:
        """Measure the round trip to the login node at intervals."""
        while True:
            with contextlib.suppress(BouchetError, TimeoutError):
                self._round_trip_s = await session.files.round_trip_s(ROUND_TRIP_TIMEOUT_S)
            await asyncio.sleep(ROUND_TRIP_INTERVAL_S)

    async def _wait_for_retry(self, cause: FailureCause, detail: str) -> None:
        """Wait as long as the cause requires, or until a connection is requested."""
        self._cause, self._failures = cause, self._failures + 1
        self._last_error = detail
        self._round_trip_s = None
        retry = next_retry(cause, self._failures, random.random())
        retry_at = None if retry.delay_s is None else _now() + timedelta(seconds=retry.delay_s)
        self._set_state(retry.state, detail, retry_at)
        try:
            async with asyncio.timeout(retry.delay_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def _shorten_backoff(self) -> None:
        """End the back-off early when a session is needed and only the network was in the way."""
        waiting = self._session is None and self._cause is FailureCause.NETWORK
        if waiting and _monotonic() - self._tried_at >= WAKE_INTERVAL_S:
            self._wake.set()

    def _unavailable(self) -> BouchetError:
        status, host = self._status, self._connector.host
        error: Callable[[str], BouchetError] = HumanNeededError if status.state in _WAITS_FOR_HUMAN else TunnelDownError
        if status.state is TunnelState.NEEDS_HUMAN and self.broker.prompt is not None:
            return error(
                f"{self.broker.prompt.host or f'the login to {host}'} is waiting for an answer: `bouchet tunnel`"
            )
        return error(f"no SSH connection to {host}: {status.detail}")

    def _on_prompt(self, prompt: LoginPrompt | None) -> None:
        if prompt is not None:
            host = prompt.host or "the login"
            self._set_state(TunnelState.NEEDS_HUMAN, f"{host} is waiting for an answer: `bouchet tunnel`")
        elif self._session is None:
            self._set_state(TunnelState.CONNECTING, "waiting for the server to accept the answer")

    def _set_state(self, state: TunnelState, detail: str, retry_at: datetime | None = None) -> None:
        old = self._status
        # the attempts within an outage do not restart its duration
        same = state is old.state or {state, old.state} == {TunnelState.DOWN, TunnelState.CONNECTING}
        since = old.since if same else _now()
        self._status = old.model_copy(update={"state": state, "since": since, "detail": detail, "retry_at": retry_at})
        if state is not TunnelState.CONNECTING and (state, detail) != self._logged:
            self._logged = (state, detail)
            log.info("tunnel host=%s state=%s detail=%r", self._connector.host, state, detail)
        self._on_change(self.status())
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _close(self) -> None:
        session, self._session = self._session, None
        self._set_state(TunnelState.DOWN, "the gateway is stopping")
        if session is not None:
            await session.close()


def _now() -> datetime:
    return datetime.now(UTC)


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
