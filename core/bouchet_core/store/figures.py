"""The newest figures of each job that serves, as its vLLM reported them.

Key in Redis, written by the worker alone and bounded by the number of live jobs:
    figures  hash  name of a job -> JobFigures as JSON
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, cast

import redis

from bouchet_core.figures import JobFigures

from .client import PREFIX, mapped
from .reading import read_or_skip

# figures older than this describe nothing any more: the worker reads them every 30 s at the latest
FIGURES_TTL = timedelta(seconds=120)
_FIGURES = PREFIX + "figures"


class FiguresStore:
    """The newest figures of jobs. Methods raise StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def put(self, figures: Iterable[JobFigures]) -> None:
        """Replace the figures of these jobs."""
        bodies = {one.job: one.model_dump_json() for one in figures}
        if bodies:
            with mapped():
                self._redis.hset(_FIGURES, mapping=cast("Any", bodies))

    def current(self, now: datetime) -> list[JobFigures]:
        """Return the figures of all jobs that have recent ones, by the job's name."""
        return [one for one in self._all() if now - one.at <= FIGURES_TTL]

    def keep(self, jobs: Iterable[str]) -> None:
        """Forget the figures of all other jobs."""
        with mapped():
            names = set(cast("list[str]", self._redis.hkeys(_FIGURES)))
            if gone := sorted(names - set(jobs)):
                self._redis.hdel(_FIGURES, *gone)

    def _all(self) -> list[JobFigures]:
        with mapped():
            bodies = cast("dict[str, str]", self._redis.hgetall(_FIGURES))
        found = (read_or_skip(JobFigures, "figures", name, body) for name, body in sorted(bodies.items()))
        return [one for one in found if one is not None]
