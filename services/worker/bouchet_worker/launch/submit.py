"""The tasks that submit and cancel a deployment's Slurm job. slurm/submission.py has their order of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from bouchet_core.deployments import Deployment, Ending, Job, Phase
from bouchet_core.errors import LaunchRefusedError, NoFreeSlotError, UnknownDeploymentError

from bouchet_worker.context import WorkerContext
from bouchet_worker.scripts import stage_scripts
from bouchet_worker.slurm.commands import scancel_argv, terminate_argv
from bouchet_worker.slurm.queries import JobRef
from bouchet_worker.slurm.submission import (
    BEING_CANCELLED,
    CANCELLED_UNSUBMITTED,
    HAS_ENDED,
    NOTHING_TO_DO,
    FoundJob,
    JobSubmission,
)

from .checks import check_image_present, check_model_present, check_pins, estimate_for
from .job_files import render_record_file
from .plan import LaunchPlan, plan_launch, restore_plan

PAUSED = "{error}. Correct that, then resume with `bouchet keep`"
# a serving job may finish open requests for this long before Slurm kills it
FINISH_LIMIT = timedelta(seconds=45)


def submit(context: WorkerContext, deployment: str) -> str:
    """Submit every job of the deployment that Slurm does not have yet; return a short result for the log.

    Raises RecordError and StoreUnavailableError.
    """
    return _for_each(context, deployment, lambda attempt: _wants_job(attempt), DeploymentSubmission.submit)


def cancel(context: WorkerContext, deployment: str) -> str:
    """Cancel the jobs that were asked to stop, else the whole deployment; return a short result for the log."""

    def change(old: Deployment) -> Deployment:
        one_job = any(job.stop_requested_at is not None for job in old.live_jobs)
        is_asked = old.stop_requested_at is not None or one_job
        return old if is_asked or not old.is_live else old.asked_to_stop(context.now())

    try:
        record = context.store.update(deployment, change)
    except UnknownDeploymentError:
        return "no such deployment"
    if not record.is_live:
        return HAS_ENDED
    if record.stop_requested_at is not None and not record.attempts():
        context.store.update(deployment, lambda old: _ended_without_job(old, context.now()))
        return CANCELLED_UNSUBMITTED
    return _for_each(context, deployment, lambda attempt: attempt.stop_requested_at is not None, _cancel)


def _cancel(submission: DeploymentSubmission) -> str:
    return submission.cancel()


def _ended_without_job(record: Deployment, now: datetime) -> Deployment:
    if record.attempts() or not record.is_live:
        return record
    if record.attached is not None:
        return record.detached(now)
    return record.ended(Ending.CANCELLED, now, "cancelled while it had no job")


def _for_each(
    context: WorkerContext,
    deployment: str,
    is_wanted: Callable[[Deployment], bool],
    act: Callable[[DeploymentSubmission], str],
) -> str:
    """Act for each job that is wanted, whatever happens to the others; raise the first error."""
    try:
        record = context.store.get(deployment)
    except UnknownDeploymentError:
        return "no such deployment"
    results, errors = [], list[Exception]()
    for attempt in record.attempts():
        if is_wanted(attempt):
            try:
                results.append(act(DeploymentSubmission(context, deployment, attempt.job_name)))
            except Exception as exc:
                errors.append(exc)
    if errors:
        raise errors[0]
    return ", ".join(results) or NOTHING_TO_DO


def set_reason(context: WorkerContext, deployment: str, reason: str) -> None:
    """Store on a live record why it does not advance."""
    for attempt in context.store.get(deployment).attempts():
        if not _wants_job(attempt) and attempt.stop_requested_at is None:
            continue
        DeploymentSubmission(context, deployment, attempt.job_name).set_reason(reason)


def update_attempt(
    context: WorkerContext, deployment: str, job_name: str | None, change: Callable[[Deployment], Deployment]
) -> Deployment:
    """Change one attempt of the stored record until it is saved; return the attempt as it is then.

    Raises UnknownDeploymentError if the record no longer has that job.
    """
    return attempt_of(update_record(context, deployment, job_name, change), job_name)


def update_record(
    context: WorkerContext,
    deployment: str,
    job_name: str | None,
    change: Callable[[Deployment], Deployment],
    known: Deployment | None = None,
) -> Deployment:
    """Do the same and return the whole record. known: the record as it was read a moment ago."""

    def whole(old: Deployment) -> Deployment:
        attempt = attempt_of(old, job_name)
        new = change(attempt)
        return old if new == attempt else old.with_attempt(new)

    return context.store.update(deployment, whole, known=known)


def attempt_of(record: Deployment, job_name: str | None) -> Deployment:
    """Return that attempt of the record, or raise UnknownDeploymentError."""
    attempt = record.attempt(job_name)
    if attempt is None:
        raise UnknownDeploymentError(f"{record.id} ({job_name})")
    return attempt


def lease_name(deployment: str) -> str:
    """Return the lease under which one worker at a time acts for a deployment."""
    return f"task:{deployment}"


def _wants_job(attempt: Deployment) -> bool:
    """Return whether it is on its way to Slurm and not cancelled."""
    return attempt.phase in (Phase.REQUESTED, Phase.SUBMITTING) and attempt.stop_requested_at is None


class DeploymentSubmission(JobSubmission[Deployment]):
    """Takes one job of a deployment from `requested` to `queued`, or cancels it. Every record here is an attempt."""

    noun = "deployment"
    _plan: LaunchPlan | None = None

    def __init__(self, context: WorkerContext, identity: str, job_name: str | None) -> None:
        super().__init__(context, identity)
        # None until the first job of the deployment is planned
        self._job_name = job_name

    def load(self) -> Deployment:
        """Return the newest version of the attempt."""
        return attempt_of(self.context.store.get(self.identity), self._job_name)

    def wants_job(self, record: Deployment) -> bool:
        """Return whether it is on its way to Slurm and not cancelled."""
        return _wants_job(record)

    def lease_name(self, record: Deployment) -> str:
        """Return the deployment's lease."""
        return lease_name(record.id)

    def job_ref(self, record: Deployment) -> JobRef:
        """Return name, id and submission time of its newest job."""
        job = _job_of(record)
        return JobRef(job.name, job.slurm_id, job.asked_at)

    # steps

    def prepare(self, record: Deployment) -> Deployment:
        """Choose slot, image and placement, and store them, so that a resumed launch uses the same."""
        if record.job is not None and record.job.placement is not None:
            return record
        plan = self._plan = plan_launch(self.context, record)
        slot = self.context.store.take_slot(record.id, plan.spec.name, self.context.slot_count)
        job = plan.job(slot, self.context.now())

        def change(old: Deployment) -> Deployment:
            if (old.job is not None and old.job.placement is not None) or old.phase is not Phase.REQUESTED:
                return old
            now = self.context.now()
            requested = job.model_copy(update={"phase": Phase.REQUESTED, "since": old.job.since if old.job else {}})
            return old.with_job(requested, now).moved(Phase.SUBMITTING, now, reason=plan.placement.why)

        attempt = self._update(change)
        self._job_name = attempt.job.name if attempt.job is not None else None
        return attempt

    def stage(self, record: Deployment) -> Deployment:
        """Check memory, image, model and pins, then upload the job's files.

        What no download would mend comes first, then the image, in which downloads run.
        """
        plan = self._current_plan(record)
        # the estimate reads the model's files with them
        stage_scripts(self.context)
        record = self._store_estimate(plan)
        if record.pins is None:
            check_image_present(self.context, plan.image.pin)
        check_model_present(self.context, record.model)
        check_pins(self.context, record)
        folder = self.context.paths.job(plan.spec.name)
        files = {f"{folder}/{name}": content for name, content in plan.files(self.context).items()}
        record_file = render_record_file(record, self.context.installation, self.context.now())
        self.context.gateway.put_all({**files, self.context.paths.record(plan.spec.name): record_file})
        return record

    def sbatch_command(self, record: Deployment) -> list[str]:
        """Return the plan's command."""
        return self._current_plan(record).command(self.context)

    def cancel_without_slurm(self, record: Deployment) -> str | None:
        """End a deployment whose job was never submitted."""
        job = record.job
        if job is not None and (job.slurm_id is not None or job.asked_at is not None):
            return None
        self.end_cancelled(CANCELLED_UNSUBMITTED)
        return CANCELLED_UNSUBMITTED

    def cancel_command(self, record: Deployment, job: FoundJob) -> list[str]:
        """Return SIGTERM for a job that may still finish open requests, else scancel."""
        return terminate_argv(job.slurm_id) if self._may_finish(record) else scancel_argv(job.slurm_id)

    def _may_finish(self, record: Deployment) -> bool:
        if record.phase is not Phase.DRAINING:
            return record.phase is Phase.READY
        job = _job_of(record)
        draining_since = job.since.get(Phase.DRAINING, record.updated_at)
        return job.listens and self.context.now() - draining_since < FINISH_LIMIT

    def _current_plan(self, record: Deployment) -> LaunchPlan:
        if self._plan is None:
            self._plan = restore_plan(self.context, record)
        return self._plan

    def _store_estimate(self, plan: LaunchPlan) -> Deployment:
        """Store the memory estimate. Raises LaunchRefusedError when the model cannot fit."""
        memory = estimate_for(self.context, plan.entry, plan.spec)

        def change(old: Deployment) -> Deployment:
            if old.job is None or old.job.memory == memory or not old.is_live:
                return old
            return old.with_job(old.job.model_copy(update={"memory": memory}), self.context.now())

        return self._update(change)

    # changes of the record

    def record_submission(self, argv: Sequence[str]) -> Deployment:
        """Store time and command of the submission."""

        def change(old: Deployment) -> Deployment:
            if old.job is None or old.stop_requested_at is not None or old.phase is not Phase.SUBMITTING:
                return old
            asked = {"asked_at": self.context.now(), "submission": tuple(argv)}
            return old.with_job(old.job.model_copy(update=asked), self.context.now())

        return self._update(change)

    def record_job_id(self, job: FoundJob) -> Deployment:
        """Store the Slurm id; the deployment is queued from now on."""

        def change(old: Deployment) -> Deployment:
            if old.job is None or old.phase is not Phase.SUBMITTING:
                return old
            now, log = self.context.now(), self.context.paths.log(job.slurm_id)
            changes = {"slurm_id": job.slurm_id, "log": log, "site_message": job.message}
            reason = f"submitted; the site's message: {job.message}" if job.message else "submitted"
            return old.with_job(old.job.model_copy(update=changes), now).moved(Phase.QUEUED, now, reason=reason)

        return self._update(change)

    def set_reason(self, reason: str) -> None:
        """Store why a live deployment does not advance; the same reason again changes nothing."""

        def change(old: Deployment) -> Deployment:
            if old.reason == reason or not old.is_live:
                return old
            return old.moved(old.phase, self.context.now(), reason=reason)

        self._update(change)

    def end_failed(self, error: Exception) -> None:
        """End the job as failed. A policy submits no other one that would fail alike."""
        self._end(Ending.FAILED, str(error))
        if isinstance(error, NoFreeSlotError):
            return

        def pause(old: Deployment) -> Deployment:
            if not old.stays or old.service.paused:
                return old
            return old.with_service(self.context.now(), paused=PAUSED.format(error=error)).settled()

        self.context.store.update(self.identity, pause)

    def request_cancel(self) -> Deployment:
        """Store when the cancellation was requested."""

        def change(old: Deployment) -> Deployment:
            is_requested = old.stop_requested_at is not None
            return old if is_requested or not old.is_live else old.asked_to_stop(self.context.now())

        return self._update(change)

    def record_cancelling(self) -> None:
        """Store that Slurm was asked to end the job: a draining deployment gets no new requests."""

        def change(old: Deployment) -> Deployment:
            if not old.is_live or old.reason == BEING_CANCELLED:
                return old
            phase = Phase.DRAINING if old.phase in (Phase.STARTING, Phase.READY) else old.phase
            return old.moved(phase, self.context.now(), reason=BEING_CANCELLED)

        self._update(change)

    def end_cancelled(self, reason: str) -> None:
        """End the deployment as cancelled."""
        self._end(Ending.CANCELLED, reason)

    def _end(self, ending: Ending, reason: str) -> None:
        def change(old: Deployment) -> Deployment:
            return old.moved(Phase.ENDED, self.context.now(), reason=reason, ending=ending) if old.is_live else old

        self._update(change)

    def _update(self, change: Callable[[Deployment], Deployment]) -> Deployment:
        return update_attempt(self.context, self.identity, self._job_name, change)


def _job_of(record: Deployment) -> Job:
    if record.job is None:
        raise LaunchRefusedError("the record has no planned job; cancel the deployment and launch it again")
    return record.job
