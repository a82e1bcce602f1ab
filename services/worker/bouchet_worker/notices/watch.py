"""Appends the notices that records call for, at every step of the reconcile loop; whoever sends them reads a stream."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bouchet_core.deployments import Deployment
from bouchet_core.errors import BouchetError
from bouchet_core.notices import Notice
from bouchet_core.policy.budget import LONGEST_PERIOD, budget_uses

from bouchet_worker.context import WorkerContext

from .rules import budget_notices, notices_of

log = logging.getLogger(__name__)

# what is used of a budget changes slowly, and its sum reads a month of records
BUDGET_INTERVAL_S = 60.0


@dataclass
class NoticeWatch:
    """Reads records and appends notices. The store knows which were appended, so that a new worker repeats none."""

    context: WorkerContext
    # keys that the last step found: what is in here was appended
    _known: frozenset[str] = frozenset()
    _budgets: tuple[Notice, ...] = ()
    _budgets_at: float | None = None
    _problem: str = field(default="")

    def step(self, records: Sequence[Deployment], ended: Sequence[Deployment]) -> None:
        """Append what is new of the live records and of those that ended within NOTICE_AGE.

        Errors are logged, never raised: notices must not keep the loop from its work.
        """
        try:
            self._append(records, ended)
            self._problem = ""
        except BouchetError as exc:
            if str(exc) != self._problem:
                log.warning("notices: %s", exc)
            self._problem = str(exc)
        except Exception:
            log.exception("notices: unexpected error")

    def _append(self, records: Sequence[Deployment], ended: Sequence[Deployment]) -> None:
        now = self.context.now()
        found = [notice for record in (*records, *ended) for notice in notices_of(record, now)]
        found += self._of_budgets(records)
        new = sorted((one for one in found if one.key not in self._known), key=lambda one: one.at)
        self.context.store.notices.append(new, now)
        self._known = frozenset(one.key for one in found)

    def _of_budgets(self, records: Sequence[Deployment]) -> tuple[Notice, ...]:
        """Return the notices about budgets, which are read once in BUDGET_INTERVAL_S."""
        context, moment = self.context, time.monotonic()
        wanted = [record for record in records if context.budget is not None or record.policy.budget is not None]
        if not wanted:
            self._budgets, self._budgets_at = (), None
            return ()
        if self._budgets_at is not None and moment - self._budgets_at < BUDGET_INTERVAL_S:
            return self._budgets
        now = context.now()
        others = [] if context.budget is None else context.store.ended_since(now - LONGEST_PERIOD)
        everything = [*records, *others]
        self._budgets = tuple(
            notice
            for record in wanted
            for notice in budget_notices(
                record, budget_uses(record, everything, context.site, context.budget, now), now
            )
        )
        self._budgets_at = moment
        return self._budgets
