"""Carries out the plans of all deployments that have a policy, after each check of their jobs.

A plan is made of one version of a record and saved over that version alone: whoever was faster wins, and the next step
plans again. So a worker that is killed at any point leaves either the old record or the new one, never a second job.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from bouchet_core.config.catalog import entry_of
from bouchet_core.deployments import Deployment, Placement
from bouchet_core.errors import BouchetError, GatewayError, NoFreeSlotError, RecordError, StoreError
from bouchet_core.figures import JobFigures
from bouchet_core.placement import UserUsage, candidates
from bouchet_core.policy.budget import LONGEST_PERIOD, BudgetUse, budget_uses
from bouchet_core.policy.checks import check_placements
from bouchet_core.store.load import LoadReport
from bouchet_core.tasks import TaskName

from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.job_files import next_job_name
from bouchet_worker.launch.plan import with_asked_walltime
from bouchet_worker.reconcile.health import SlotProbe
from bouchet_worker.slurm.commands import SBATCH_TIMEOUT_S, sbatch_test_only_argv
from bouchet_worker.slurm.parsing import MaintenanceWindow, parse_start_estimate
from bouchet_worker.slurm.queries import maintenance_windows, user_usage

from .carry_out import SUBMISSIONS, carry_out, is_parked, parked, tasks_of
from .engine_load import LoadWatch
from .estimates import queue_estimate_age_s
from .inputs import Action, ActionKind
from .plan import plan
from .views import Surroundings, limits_view, load_view, record_view

log = logging.getLogger(__name__)

# what the user's other jobs hold changes slowly, and so does the queue
USAGE_AGE_S, CALM_USAGE_AGE_S = 15.0, 60.0
MAINTENANCE_AGE_S = 600.0


def _is_planned(record: Deployment) -> bool:
    """Tell whether there is something to plan: it has a policy, or one that was removed during a hand-over."""
    live = record.live_jobs
    return record.policy.is_managed or len(live) > 1 or any(job.leaving_since is not None for job in live)


class ServiceRunner:
    """Plans and carries out. wants_query: a plan would act, and Slurm has to be queried first."""

    def __init__(
        self,
        context: WorkerContext,
        enqueue: Callable[[TaskName, str], None],
        probe: SlotProbe,
        latest: Callable[[str], JobFigures | None] = lambda _: None,
    ) -> None:
        self._context, self._enqueue = context, enqueue
        self._watch = LoadWatch(probe, latest)
        self.wants_query = False
        self._observed_at: datetime | None = None
        self._last_demand: str | None = None
        # kept while no proxy reports any
        self._speeds: dict[str, float] = {}
        self.is_unanswered = False
        self._usage: tuple[float, Mapping[str, UserUsage]] | None = None
        self._maintenance: tuple[float, Sequence[MaintenanceWindow]] | None = None
        # by deployment: when it was estimated (monotonic), and the start that Slurm expects
        self._queues: dict[str, tuple[float, datetime | None]] = {}

    def step(self, *, is_observed: bool, is_calm: bool = False) -> None:
        """Plan for every live record once. is_observed: Slurm's queue was just read, with success.

        is_calm: Slurm is asked seldom. What a submission needs is asked again before it.
        """
        now, store = self._context.now(), self._context.store
        if is_observed:
            self._observed_at = now
        self.wants_query = False
        records, load, demand = store.ask(
            store.live_query(), store.load.current_query(), store.load.forget_demand_query(now)
        )
        planned = [record for record in records if _is_planned(record)]
        if not planned:
            return
        self._watch.forget(record.id for record in planned)
        around = self._surroundings(records, load, demand, is_observed, is_calm)
        may_submit = is_observed and not is_calm
        # the next plan knows what the ones before it have changed
        newest = {record.id: record for record in records}
        for record in planned:
            try:
                others = [other for other in newest.values() if other.id != record.id]
                newest.update((new.id, new) for new in self._run(newest[record.id], around, others, may_submit))
            except BouchetError as exc:
                log.warning("deployment %s: its policy could not be followed: %s", record.id, exc)
            except Exception:
                # one record that cannot be planned stops no other
                log.exception("deployment %s: its policy could not be followed", record.id)

    def wait_for_demand(self, wait_s: float) -> bool:
        """Wait until a request names a model that is not there, wait_s at most; tell whether one has.

        The wait is within Redis, whose answer comes at once. is_unanswered: it cannot be asked, and nothing was waited.
        """
        load, known = self._context.store.load, self._last_demand
        try:
            newest = load.last_demand() if known is None or wait_s <= 0 else load.wait_for_demand(known, wait_s)
        except StoreError:
            self.is_unanswered = True
            return False
        self._last_demand, self.is_unanswered = newest, False
        return known is not None and newest != known

    def _run(
        self, record: Deployment, around: Surroundings, others: Sequence[Deployment], may_submit: bool
    ) -> list[Deployment]:
        """Plan for one record and carry it out; return the records that were saved."""
        now, placement = self._context.now(), self._placement(record)
        view, load = (
            record_view(record, placement, around),
            self._watch.added_to(load_view(record, around), record, now),
        )
        limits = limits_view(record, placement, around, others)
        actions = plan(view, load, limits, now)
        if not record.policy.is_managed:
            actions = tuple(action for action in actions if action.kind is not ActionKind.NOTHING)
        submits = any(action.kind in SUBMISSIONS for action in actions)
        if submits and not may_submit:
            self.wants_query = True
            return []
        slot = self._slot(record) if submits else None
        saved = self._park_rivals(actions, others, now)
        new = carry_out(record, actions, slot, now)
        if new is record:
            return saved
        try:
            self._context.store.save(new)
        except RecordError:
            return saved
        for decision in new.service.decisions[len(record.service.decisions) :]:
            log.info("deployment %s: %s: %s", record.id, decision.action, decision.reason)
        for task in tasks_of(new):
            self._enqueue(task, record.id)
        return [*saved, new]

    def _park_rivals(self, actions: Sequence[Action], others: Sequence[Deployment], now: datetime) -> list[Deployment]:
        """Park idle deployments whose GPUs are needed; each is saved over the version that the plan has seen.

        One that is parked already still holds its GPUs until Slurm has ended its jobs.
        """
        saved = []
        for action in actions:
            rival = next((one for one in others if one.id == action.deployment), None)
            if action.kind is not ActionKind.PARK_RIVAL or rival is None or is_parked(rival):
                continue
            new = parked(rival, action.reason, now).model_copy(update={"version": rival.version + 1})
            self._context.store.save(new)
            saved.append(new)
            for task in tasks_of(new):
                self._enqueue(task, rival.id)
        return saved

    def _slot(self, record: Deployment) -> int | None:
        try:
            return self._context.store.take_slot(record.id, next_job_name(record), self._context.slot_count)
        except NoFreeSlotError:
            return None

    # what plans need to know

    def _surroundings(
        self,
        records: Sequence[Deployment],
        report: LoadReport | None,
        demand: Mapping[str, datetime],
        is_observed: bool,
        is_calm: bool,
    ) -> Surroundings:
        now = self._context.now()
        held = sum(len(record.live_jobs) for record in records)
        if is_observed:
            self._refresh_estimates(records, CALM_USAGE_AGE_S if is_calm else USAGE_AGE_S)
        if report is not None:
            self._speeds.update(report.speeds)
        self._speeds = {record.id: self._speeds[record.id] for record in records if record.id in self._speeds}
        return Surroundings(
            site=self._context.site,
            report=report,
            demand=demand,
            usage=self._usage[1] if self._usage is not None else {},
            # while nothing runs nothing is queried: a plan that would act asks for a query first
            observed_at=now if self._observed_at is None or held == 0 else self._observed_at,
            slots_free=self._context.slot_count - held,
            now=now,
            queue_starts={name: start for name, (_, start) in self._queues.items() if start is not None},
            budgets=self._budgets(records, now),
            maintenance=self._maintenance[1] if self._maintenance is not None else (),
            speeds=self._speeds,
        )

    def _refresh_estimates(self, records: Sequence[Deployment], usage_age_s: float) -> None:
        """Ask Slurm what the user's jobs hold, and when a job of each managed deployment would start."""
        moment, now = time.monotonic(), self._context.now()
        managed = {record.id: record for record in records if record.policy.is_managed}
        self._queues = {name: found for name, found in self._queues.items() if name in managed}
        if self._usage is None or moment - self._usage[0] > usage_age_s:
            try:
                self._usage = moment, user_usage(self._context)
            except GatewayError:
                self._usage = None
        if self._maintenance is None or moment - self._maintenance[0] > MAINTENANCE_AGE_S:
            with contextlib.suppress(GatewayError):
                self._maintenance = moment, maintenance_windows(self._context)
        for name, record in managed.items():
            known = self._queues.get(name)
            if known is None or moment - known[0] > queue_estimate_age_s(record, now):
                self._queues[name] = moment, self._slurm_start(record)

    def _slurm_start(self, record: Deployment) -> datetime | None:
        """Return when Slurm expects a new job of the deployment to start, None where it does not say."""
        try:
            placement = self._placement(record)
            argv = sbatch_test_only_argv(placement)
            output = self._context.gateway.run(argv, stdin="#!/bin/bash\n", timeout_s=SBATCH_TIMEOUT_S)
            estimate = parse_start_estimate(output.stderr)
        except BouchetError:
            return None
        if estimate is None or not estimate.start.isdigit():
            return None
        return datetime.fromtimestamp(int(estimate.start), UTC)

    def _budgets(self, records: Sequence[Deployment], now: datetime) -> Mapping[str, Sequence[BudgetUse]]:
        """Return what is used of the budgets of each managed deployment and of the installation."""
        context = self._context
        managed = [record for record in records if record.policy.is_managed]
        if context.budget is None:
            return {r.id: budget_uses(r, (), context.site, None, now) for r in managed if r.policy.budget is not None}
        everything = [*records, *context.store.ended_since(now - LONGEST_PERIOD)]
        return {r.id: budget_uses(r, everything, context.site, context.budget, now) for r in managed}

    def _placement(self, record: Deployment) -> Placement:
        """Return the placement of its next job, as its last one had it."""
        last = next((job.placement for job in reversed(record.jobs) if job.placement is not None), None)
        full = next((job for job in record.jobs if job.asked_walltime_s is None and job.placement is not None), None)
        if full is not None and full.placement is not None:
            return full.placement
        entry = entry_of(record, self._context.catalog)
        site = self._context.site
        found = candidates(entry, with_asked_walltime(record, None).request, site, {})
        placement = check_placements(record.policy, found, site)[0]
        return placement if last is None else last.model_copy(update={"walltime_s": placement.walltime_s})
