"""What the proxy tells the worker about clients: open answers, held requests, and the models they ask for.

Keys in Redis, all written by the proxy alone and bounded:
    load        string  LoadReport as JSON; expires LOAD_TTL_S after the proxy last renewed it
    demand      hash    id of a deployment -> Unix time at which a request last named it while no job of it was ready
    demand-log  stream  id of a deployment, each time that the hash is written; the worker waits for the next one
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import redis
from pydantic import ConfigDict, Field

from bouchet_core.values import FrozenModel

from .client import PREFIX, mapped, stream_entries
from .queries import Query, ask
from .reading import read_or_skip

LOAD_TTL_S = 15
# requests for a model that is parked are counted for this long after their client has given up
DEMAND_KEPT_S = 600.0
# whoever waits reads the hash as well: an entry is needed for a moment only
DEMAND_LOG_KEPT = 100
_LOAD, _DEMAND, _DEMAND_LOG = PREFIX + "load", PREFIX + "demand", PREFIX + "demand-log"
FIRST_ID = "0-0"


class _Part(FrozenModel):
    """A part of the report; what a newer proxy adds is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class JobLoad(_Part):
    """The requests of one job."""

    open: int = Field(default=0, ge=0, description="requests whose answer has not ended")
    last_end: datetime | None = Field(default=None, description="when the last answer ended")


class LoadReport(_Part):
    """What the proxy serves at the moment."""

    at: datetime
    table_at: datetime | None = Field(default=None, description="when the proxy last read the records")
    jobs: Mapping[str, JobLoad] = Field(default_factory=dict, description="by name of the job")
    held: Mapping[str, int] = Field(
        default_factory=dict, description="requests that wait until a job is ready, by id of the deployment"
    )
    cut: int = Field(default=0, ge=0, description="requests and answers under way that wait for the tunnel")

    speeds: Mapping[str, float] = Field(
        default_factory=dict,
        description="tokens a second at which the slowest tenth of recent answers came, by id of the deployment",
    )

    def open_requests(self, job: str) -> int:
        """Return how many requests are open on that job."""
        found = self.jobs.get(job)
        return found.open if found is not None else 0


class LoadStore:
    """The proxy's report and the demand for parked models. Methods raise StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def report(self, report: LoadReport) -> None:
        """Replace the report."""
        with mapped():
            self._redis.set(_LOAD, report.model_dump_json(), ex=LOAD_TTL_S)

    def current(self) -> LoadReport | None:
        """Return the newest report, None if no proxy has written one for LOAD_TTL_S."""
        return ask(self._redis, self.current_query())

    def current_query(self) -> Query[LoadReport | None]:
        """Return the query for it."""
        return Query([("GET", _LOAD)], lambda answers: _report(answers[0]))

    def want(self, deployment: str, now: datetime) -> None:
        """Note that a request names a deployment of which no job is ready."""
        with mapped():
            self._redis.hset(_DEMAND, deployment, str(round(now.timestamp(), 3)))
            self._redis.xadd(_DEMAND_LOG, {"id": deployment}, maxlen=DEMAND_LOG_KEPT, approximate=True)

    def last_demand(self) -> str:
        """Return the newest id of the log of demand."""
        with mapped():
            newest = cast("list[tuple[str, dict[str, str]]]", self._redis.xrevrange(_DEMAND_LOG, count=1))
        return newest[0][0] if newest else FIRST_ID

    def wait_for_demand(self, after: str, wait_s: float) -> str:
        """Wait until a request names a deployment; return the newest id of the log, `after` if none came in wait_s.

        after: the id that was returned last. wait_s must be above 0 and below SOCKET_TIMEOUT_S.
        """
        with mapped():
            answer = self._redis.xread({_DEMAND_LOG: after}, block=max(1, int(wait_s * 1000)))
        found = stream_entries(answer, _DEMAND_LOG)
        return found[-1][0] if found else after

    def demand(self) -> dict[str, datetime]:
        """Return when each deployment was last asked for in vain, by id."""
        return ask(self._redis, Query([("HGETALL", _DEMAND)], lambda answers: _times(answers[0])))

    def forget_demand(self, now: datetime) -> dict[str, datetime]:
        """Remove what was asked for too long ago, and what cannot be read; return the rest."""
        return ask(self._redis, self.forget_demand_query(now))

    def forget_demand_query(self, now: datetime) -> Query[dict[str, datetime]]:
        """Return the query for what is left."""

        def parse(answers: Sequence[Any]) -> dict[str, datetime]:
            times = _times(answers[0])
            current = {name: moment for name, moment in times.items() if not _is_old(moment, now)}
            if old := [name for name in answers[0] if name not in current]:
                with mapped():
                    self._redis.hdel(_DEMAND, *old)
            return current

        return Query([("HGETALL", _DEMAND)], parse)


def _report(body: str | None) -> LoadReport | None:
    return read_or_skip(LoadReport, "report", "of the proxy", body) if body else None


def _times(found: Mapping[str, str]) -> dict[str, datetime]:
    times = {name: _time(text) for name, text in found.items()}
    return {name: moment for name, moment in times.items() if moment is not None}


def _is_old(moment: datetime, now: datetime) -> bool:
    return abs((now - moment).total_seconds()) > DEMAND_KEPT_S


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        return None
