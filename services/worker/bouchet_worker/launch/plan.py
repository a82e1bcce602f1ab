"""The plan of a launch: model, image, placement and job parameters, decided once, before anything is submitted.

A launch and its preview use the same plan, so a preview shows what a launch does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from bouchet_core.config.catalog import ModelEntry, entry_of
from bouchet_core.config.site import SiteImage
from bouchet_core.deployments import Deployment, Job, Phase, Placement
from bouchet_core.errors import LaunchRefusedError, RemoteCommandError
from bouchet_core.keys import serving_key
from bouchet_core.placement import AUTO_PARTITION, SHORTEST_S, candidates, image_of, waits_for_own_job
from bouchet_core.policy.budget import LONGEST_PERIOD, BudgetUse, budget_uses, preview_policy
from bouchet_core.policy.budget import preview as cost_preview
from bouchet_core.policy.checks import check_placements, hours_warning
from bouchet_core.values import format_duration

from bouchet_worker.context import WorkerContext
from bouchet_worker.paths import SERVE_SCRIPT
from bouchet_worker.slurm.commands import SBATCH_TIMEOUT_S, sbatch_argv, sbatch_test_only_argv
from bouchet_worker.slurm.error_messages import describe_refusal, is_busy, may_have_submitted
from bouchet_worker.slurm.parsing import parse_start_estimate, start_sort_key
from bouchet_worker.slurm.queries import user_usage

from .checks import changed_arguments, check_pins, estimate_for
from .job_files import KEY_FILE, JobSpec, make_spec, next_job_name, render_files

# a preview takes no slot, and no file of a job depends on it
NO_SLOT = 0


@dataclass(frozen=True)
class LaunchPlan:
    """Everything that a launch of `record` has decided. Made once, and passed to every later step."""

    record: Deployment
    entry: ModelEntry
    spec: JobSpec

    @property
    def image(self) -> SiteImage:
        """The image that it serves from."""
        return self.spec.image

    @property
    def placement(self) -> Placement:
        """The resources that it requests from Slurm."""
        return self.spec.placement

    def job(self, slot: int, now: datetime) -> Job:
        """Return the job as the deployment's record stores it, with what its policy asked of it."""
        asked = self.record.job
        kept = () if asked is None else ("replaces", "begin_at", "asked_walltime_s")
        return Job.model_validate(
            {
                **{field: getattr(asked, field) for field in kept},
                "name": self.spec.name,
                "slot": slot,
                "placement": self.placement,
                "arguments": self.spec.arguments,
                "window": self.spec.window,
                "image": f"{self.image.pin}.sif",
                "vllm_version": self.image.vllm,
                "since": {Phase.SUBMITTING: now},
            }
        )

    def files(self, context: WorkerContext) -> dict[str, bytes]:
        """Return the files of the job's folder by name, without record.json."""
        return render_files(self.spec, context.site, serving_key(context.serving_secret, self.spec.name))

    def command(self, context: WorkerContext) -> list[str]:
        """Return the command that submits the job."""
        job_dir, scripts = context.paths.job(self.spec.name), context.scripts_dir
        log = context.paths.log("%j")
        begin_at = self.record.job.begin_at if self.record.job is not None else None
        begin_in_s = 0 if begin_at is None else round((begin_at - context.now()).total_seconds())
        script = f"{scripts}/{SERVE_SCRIPT}"
        return sbatch_argv(
            self.placement, self.spec.name, log, script, [job_dir, scripts], begin_in_s=max(0, begin_in_s)
        )


def plan_launch(context: WorkerContext, record: Deployment) -> LaunchPlan:
    """Plan the deployment's next job. Raises LaunchRefusedError, UnknownModelError and the gateway's errors."""
    entry = entry_of(record, context.catalog)
    image = image_of(record, entry, context.site)
    asked_s = record.job.asked_walltime_s if record.job is not None else None
    placement = _place(context, with_asked_walltime(record, asked_s), entry)
    name = record.job.name if record.job is not None else next_job_name(record)
    spec = make_spec(record, name, entry, placement, image, context.site)
    changes = changed_arguments(record.pins.arguments, spec.arguments) if record.pins is not None else ""
    if changes:
        placement = placement.model_copy(update={"why": f"{placement.why}; {changes}"})
        spec = replace(spec, placement=placement)
    return LaunchPlan(record, entry, spec)


def with_asked_walltime(record: Deployment, asked_s: int | None) -> Deployment:
    """Return the record as if its request had that walltime; None: the one that it has."""
    if asked_s is None:
        return record
    time = format_duration(max(asked_s // SHORTEST_S, 1) * SHORTEST_S)
    return record.model_copy(update={"request": record.request.model_copy(update={"time": time})})


def restore_plan(context: WorkerContext, record: Deployment) -> LaunchPlan:
    """Return the plan of the job that the record stores: a launch resumes after a restart of the worker."""
    job = record.job
    if job is None or job.placement is None:
        raise LaunchRefusedError("the record has no planned job; cancel the deployment and launch it again")
    entry = entry_of(record, context.catalog)
    image = image_of(record, entry, context.site)
    return LaunchPlan(record, entry, make_spec(record, job.name, entry, job.placement, image, context.site))


def preview(context: WorkerContext, record: Deployment) -> dict[str, Any]:
    """Return what a launch of that record would stage and submit, as JSON for the API.

    Queries the cluster as a launch does, but changes nothing there and stores nothing.
    """
    plan = plan_launch(context, record)
    check_pins(context, record)
    _check_with_slurm(context, plan.placement)
    files = plan.files(context)
    job = plan.job(NO_SLOT, context.now())
    return {
        "job_name": job.name,
        "placement": plan.placement.model_dump(mode="json"),
        "image": job.image,
        "window": job.window,
        "memory": estimate_for(context, plan.entry, plan.spec).model_dump(mode="json"),
        "folder": context.paths.job(job.name),
        "script": context.scripts.files[SERVE_SCRIPT].decode(),
        "command": plan.command(context),
        "cost": _cost(context, record, plan.placement),
        "idle_timeout_min": plan.spec.idle_timeout_min,
        "serve_as": list(record.request.serve_as),
        "files": {name: content.decode() for name, content in files.items() if name != KEY_FILE},
    }


def _check_with_slurm(context: WorkerContext, placement: Placement) -> None:
    """Raise LaunchRefusedError where Slurm would take no such job: an account, a QOS, a limit of the site."""
    try:
        _test_job(context, placement)
    except RemoteCommandError as exc:
        if not is_busy(exc.stderr) and not may_have_submitted(exc.stderr):
            raise LaunchRefusedError(describe_refusal(exc.stderr)) from exc


def _cost(context: WorkerContext, record: Deployment, placement: Placement) -> str:
    """Return what a job costs, what keeping the deployment costs, and whether its hours cost more than its budget."""
    uses = _budget_uses(context, record)
    limit = min((use.limit for use in uses), default=0.0)
    warning = hours_warning(record.policy, context.now(), limit, placement.gpus)
    kept = preview_policy(placement, context.site, record.policy, context.now())
    return "; ".join(filter(None, (cost_preview(placement, context.site, uses), kept, warning)))


def _budget_uses(context: WorkerContext, record: Deployment) -> Sequence[BudgetUse]:
    now, store = context.now(), context.store
    if record.policy.budget is None and context.budget is None:
        return ()
    records = [*store.live(), *store.ended_since(now - LONGEST_PERIOD)]
    return budget_uses(record, records, context.site, context.budget, now)


# placement


@dataclass(frozen=True)
class _StartTest:
    """Slurm's estimated start in one partition, as printed; empty when it names none."""

    placement: Placement
    start: str


def _place(context: WorkerContext, record: Deployment, entry: ModelEntry) -> Placement:
    found = candidates(entry, record.request, context.site, user_usage(context))
    placements = check_placements(record.policy, found, context.site)
    return _earliest(context, placements) if record.request.partition == AUTO_PARTITION else placements[0]


def _earliest(context: WorkerContext, placements: Sequence[Placement]) -> Placement:
    """Return the placement that Slurm expects to start first.

    `sbatch --test-only` does not count the jobs that a user may run in a partition, so where such a limit is reached
    its estimate is not asked for, as long as another partition takes the job.
    """
    blocked = [placement for placement in placements if waits_for_own_job(placement)]
    if 0 < len(blocked) < len(placements):
        best = _earliest(context, [placement for placement in placements if placement not in blocked])
        unnamed = [placement.why for placement in blocked if placement.partition not in best.why]
        return best.model_copy(update={"why": "; ".join((best.why, *unnamed))})
    if len(placements) == 1:
        return placements[0]
    tests = [_test_start(context, placement) for placement in placements]
    dated = [test for test in tests if test.start]
    if not dated:
        return placements[0]
    best = min(dated, key=lambda test: start_sort_key(test.start)).placement
    starts = ", ".join(f"{t.placement.partition} {_describe_start(t.start, context.now())}" for t in tests)
    return best.model_copy(update={"why": f"{best.partition} has the earliest start estimated by Slurm ({starts})"})


def _test_start(context: WorkerContext, placement: Placement) -> _StartTest:
    try:
        estimate = parse_start_estimate(_test_job(context, placement))
    except RemoteCommandError:
        return _StartTest(placement, "")
    return _StartTest(placement, estimate.start if estimate else "")


def _test_job(context: WorkerContext, placement: Placement) -> str:
    """Return what `sbatch --test-only` prints about such a job. Raises RemoteCommandError where Slurm refuses it."""
    script, argv = context.scripts.files[SERVE_SCRIPT].decode(), sbatch_test_only_argv(placement)
    return context.gateway.run(argv, stdin=script, timeout_s=SBATCH_TIMEOUT_S).stderr


def _describe_start(start: str, now: datetime) -> str:
    """Return `now`, `in 12 min`, or the printed text where it is not a number of seconds."""
    if not start.isdigit():
        return f"at {start}" if start else "never"
    minutes = round((int(start) - now.timestamp()) / 60)
    if minutes < 1:
        return "now"
    return f"in {minutes} min" if minutes < 120 else f"in {minutes / 60:.0f} h"
