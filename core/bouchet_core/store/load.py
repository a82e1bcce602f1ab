"""What the proxy tells the worker about clients: open answers, held requests, and the models they ask for.

Keys in Redis, both written by the proxy alone and bounded by the number of live deployments:
    load    string  LoadReport as JSON; expires LOAD_TTL_S after the proxy last renewed it
    demand  hash    id of a deployment -> Unix time at which a request last named it while no job of it was ready
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast

import redis
from pydantic import ConfigDict, Field

from bouchet_core.values import FrozenModel

from .reading import read_or_skip
from .records import PREFIX, mapped

LOAD_TTL_S = 15
# requests for a model that is parked are counted for this long after their client has given up
DEMAND_KEPT_S = 600.0
_LOAD, _DEMAND = PREFIX + "load", PREFIX + "demand"


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
        with mapped():
            body = cast("str | None", self._redis.get(_LOAD))
        return read_or_skip(LoadReport, "report", "of the proxy", body) if body else None

    def want(self, deployment: str, now: datetime) -> None:
        """Note that a request names a deployment of which no job is ready."""
        with mapped():
            self._redis.hset(_DEMAND, deployment, str(round(now.timestamp(), 3)))

    def demand(self) -> dict[str, datetime]:
        """Return when each deployment was last asked for in vain, by id."""
        with mapped():
            found = cast("dict[str, str]", self._redis.hgetall(_DEMAND))
        times = {name: _time(text) for name, text in found.items()}
        return {name: moment for name, moment in times.items() if moment is not None}

    def forget_demand(self, now: datetime) -> None:
        """Remove what was asked for too long ago, and what cannot be read."""
        with mapped():
            found = cast("dict[str, str]", self._redis.hgetall(_DEMAND))
            old = [name for name, text in found.items() if _is_old(_time(text), now)]
            if old:
                self._redis.hdel(_DEMAND, *old)


def _is_old(moment: datetime | None, now: datetime) -> bool:
    return moment is None or abs((now - moment).total_seconds()) > DEMAND_KEPT_S


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        return None
