"""One look at the cluster: one squeue for all live jobs, then only what squeue cannot tell. I/O, no decisions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from bouchet_core.deployments import Deployment, Job, Phase
from bouchet_core.errors import (
    BouchetError,
    ClusterUnavailableError,
    GatewayError,
    RemoteCommandError,
    RemoteFileMissingError,
    RemoteTimeoutError,
    SlurmOutputError,
)
from bouchet_core.gateway_client import GatewayClient
from pydantic import BaseModel, ValidationError

from bouchet_worker.launch.job_files import Layout
from bouchet_worker.slurm import commands as slurm
from bouchet_worker.slurm.states import STATES, Meaning, State, parse_state

from .health import SlotProbe
from .observation import Answering, Connection, CouldNotLook, EndNote, Observed, SlurmAnswer, SlurmKnowsNot, SlurmSays
from .smoke_runner import Smokes
from .startup_times import engine_times
from .vllm_progress import progress_in

LOOK_TIMEOUT_S = 20.0
LOG_TAIL_BYTES = 16 << 10
# at the end of a start, progress bars included
LOG_START_BYTES = 512 << 10
LOOKERS = 8

Written = TypeVar("Written", bound=BaseModel)


class Observer:
    """Looks at all live deployments at once."""

    def __init__(self, gateway: GatewayClient, layout: Layout, probe: SlotProbe, smokes: Smokes | None = None) -> None:
        self._gateway, self._layout, self._probe, self._smokes = gateway, layout, probe, smokes
        self.rows: Sequence[slurm.QueueRow] | None = None
        self._waits_for_accounting: set[str] = set()

    def look(self, records: Sequence[Deployment], *, always: bool = False) -> dict[str, Observed]:
        """What was seen, by deployment. Raises nothing of the gateway's: what could not be asked says so.

        always: run squeue although no record has a job. `rows` is what it said in this look, None without an answer.
        """
        submitted = {r.id: r.job for r in records if r.job is not None and r.job.slurm_id is not None}
        self.rows = None
        answers = self._ask_slurm(list(submitted.values()), always)
        seen = {r.id: Observed(CouldNotLook("not submitted yet", asked=False)) for r in records}
        asked = [r for r in records if r.id in submitted]
        if not asked:
            return seen
        with ThreadPoolExecutor(min(LOOKERS, len(asked)), thread_name_prefix="look") as pool:
            closer = pool.map(lambda r: self._look_closer(r, submitted[r.id], answers[submitted[r.id].name]), asked)
            return {**seen, **dict(zip((r.id for r in asked), closer, strict=True))}

    def _ask_slurm(self, jobs: Sequence[Job], always: bool) -> dict[str, SlurmAnswer]:
        """Slurm's answer by job name."""
        if not jobs and not always:
            return {}
        try:
            rows = slurm.parse_queue(self._gateway.run(slurm.squeue_argv(), timeout_s=LOOK_TIMEOUT_S).stdout)
        except (GatewayError, SlurmOutputError) as exc:
            return {job.name: CouldNotLook(str(exc)) for job in jobs}
        self.rows = rows
        queued = {(row.job_id, row.name): row for row in rows}
        answers: dict[str, SlurmAnswer] = {}
        for job in jobs:
            row = queued.get((job.slurm_id or 0, job.name))
            if row is not None:
                answers[job.name] = _from_queue(job, row)
        left = [job for job in jobs if job.name not in answers]
        return {**answers, **self._ask_about_left(left)}

    def _ask_about_left(self, jobs: Sequence[Job]) -> dict[str, SlurmAnswer]:
        """Jobs that squeue no longer lists: slurmctld's memory first, then accounting for all the rest at once."""
        answers: dict[str, SlurmAnswer] = {}
        for job in jobs:
            answer = self._show(job)
            if answer is not None:
                answers[job.name] = self._with_who(job, answer)
        forgotten = [job for job in jobs if job.name not in answers]
        return {**answers, **self._account(forgotten)} if forgotten else answers

    def _show(self, job: Job) -> SlurmAnswer | None:
        """slurmctld's answer, None when it has forgotten the job (or uses its id for another one)."""
        try:
            text = self._gateway.run(slurm.show_job_argv(job.slurm_id or 0), timeout_s=LOOK_TIMEOUT_S).stdout
            row = slurm.parse_job(text)
            return _from_end(row) if row.name == job.name else None
        except RemoteCommandError as exc:
            return None if slurm.says_no_such_job(exc.stderr) else CouldNotLook(str(exc))
        except (GatewayError, SlurmOutputError) as exc:
            return CouldNotLook(str(exc))

    def _with_who(self, job: Job, answer: SlurmAnswer) -> SlurmAnswer:
        """A cancelled job with the word of who cancelled it, which accounting alone knows, a moment later."""
        if not isinstance(answer, SlurmSays) or answer.state is not State.CANCELLED or answer.ended_by:
            return answer
        told = self._account([job])[job.name]
        if isinstance(told, SlurmSays) and told.state is State.CANCELLED:
            return told
        if job.name in self._waits_for_accounting:
            self._waits_for_accounting.discard(job.name)
            return answer
        self._waits_for_accounting.add(job.name)
        return CouldNotLook("accounting does not know yet who cancelled it", asked=False)

    def _account(self, jobs: Sequence[Job]) -> dict[str, SlurmAnswer]:
        try:
            argv = slurm.sacct_argv([job.slurm_id or 0 for job in jobs])
            rows = slurm.parse_accounting(self._gateway.run(argv, timeout_s=LOOK_TIMEOUT_S).stdout)
            by_job = {(row.job_id, row.name): row for row in rows}
            return {job.name: self._named(by_job.get((job.slurm_id or 0, job.name))) for job in jobs}
        except RemoteCommandError as exc:
            if "accounting storage is disabled" in exc.stderr.lower():
                return {job.name: SlurmKnowsNot() for job in jobs}
            return {job.name: CouldNotLook(str(exc)) for job in jobs}
        except (GatewayError, SlurmOutputError) as exc:
            return {job.name: CouldNotLook(str(exc)) for job in jobs}

    def _named(self, row: slurm.EndRow | None) -> SlurmAnswer:
        """The row's answer; of a job that somebody cancelled with who that was."""
        answer = _accounted(row)
        found = re.search(r"by (\d+)", row.word) if row is not None else None
        if row is None or found is None or not isinstance(answer, SlurmSays):
            return answer
        return replace(answer, ended_by=self._who(found.group(1), row.uid))

    def _who(self, uid: str, owner: str) -> str:
        if uid in (owner, "0"):
            return "you, with scancel" if uid == owner else "root: an administrator, or Slurm itself"
        try:
            name = self._gateway.run(["getent", "passwd", uid], timeout_s=LOOK_TIMEOUT_S).stdout.split(":")[0]
        except GatewayError:
            name = ""
        return f"user {name} (id {uid})" if name else f"user id {uid}"

    def _look_closer(self, record: Deployment, job: Job, answer: SlurmAnswer) -> Observed:
        try:
            return self._closer(record, job, answer)
        except (ClusterUnavailableError, RemoteTimeoutError) as exc:
            return Observed(CouldNotLook(str(exc)))

    def _closer(self, record: Deployment, job: Job, answer: SlurmAnswer) -> Observed:
        if isinstance(answer, CouldNotLook):
            return Observed(answer)
        identity = job.slurm_id or 0
        if isinstance(answer, SlurmKnowsNot):
            health = self._probe.health(job) if job.listens else None
            return Observed(answer, health=health, end=self._written(self._layout.end(identity), EndNote, job))
        meaning = STATES[answer.state].meaning
        if meaning in (Meaning.ENDED, Meaning.ENDING):
            return Observed(answer, end=self._written(self._layout.end(identity), EndNote, job))
        if meaning is not Meaning.RUNNING or record.phase is Phase.DRAINING:
            return Observed(answer)
        return self._running(record, job, answer)

    def _running(self, record: Deployment, job: Job, answer: SlurmSays) -> Observed:
        health = self._probe.health(job) if job.listens and record.phase in (Phase.STARTING, Phase.READY) else None
        if health is not None and health.answering is not Answering.NO:
            took = engine_times(self._tail(job, LOG_START_BYTES)) if record.phase is Phase.STARTING else {}
            return self._tried(record, job, Observed(answer, health=health, took=took))
        connection = self._written(self._layout.connection(job.slurm_id or 0), Connection, job)
        progress = "" if record.phase is Phase.READY else progress_in(self._tail(job))
        return Observed(answer, connection, health, progress)

    def _tried(self, record: Deployment, job: Job, seen: Observed) -> Observed:
        """With what came of its smoke test, of which there is one a start."""
        wanted = job.smoke is None and record.stop_requested_at is None
        if self._smokes is None or not wanted or seen.health is None or seen.health.answering is not Answering.YES:
            return seen
        smoke, waits = self._smokes.look(record, job)
        return replace(seen, smoke=smoke, smoke_waits=waits)

    def _written(self, path: str, model: type[Written], job: Job) -> Written | None:
        """A file that the job wrote; None while it is not there, unreadable or another job's. Files are hints."""
        try:
            written = model.model_validate_json(self._gateway.get(path).data)
        except (RemoteFileMissingError, ValidationError):
            return None
        except (ClusterUnavailableError, RemoteTimeoutError):
            raise
        except BouchetError:
            return None
        return written if getattr(written, "job_name", None) == job.name else None

    def _tail(self, job: Job, most: int = LOG_TAIL_BYTES) -> str:
        """The end of its log, empty while there is none."""
        try:
            piece = self._gateway.get(self._layout.log(job.slurm_id or 0), -most, most)
        except GatewayError:
            return ""
        return piece.data.decode(errors="replace")


def _from_queue(job: Job, row: slurm.QueueRow) -> SlurmAnswer:
    try:
        state = parse_state(row.state)
    except SlurmOutputError as exc:
        return CouldNotLook(str(exc))
    submitted_at = job.since.get(Phase.QUEUED) if job.asked_at is None else job.asked_at
    start = slurm.start_estimate(row, submitted_at)
    runs = STATES[state].meaning is Meaning.RUNNING
    return SlurmSays(state, row.state, row.reason, row.node, start, waited_s=slurm.waited_s(row) if runs else None)


def _from_end(row: slurm.EndRow) -> SlurmAnswer:
    try:
        state = parse_state(row.word)
        nodes = slurm.expand_nodes(row.nodes) if row.nodes and not row.nodes.startswith("None") else []
    except SlurmOutputError as exc:
        return CouldNotLook(str(exc))
    return SlurmSays(state, row.word, row.reason, nodes[0] if nodes else None, exit_code=row.exit_code)


def _accounted(row: slurm.EndRow | None) -> SlurmAnswer:
    if row is None:
        return SlurmKnowsNot()
    answer = _from_end(row)
    if isinstance(answer, SlurmSays) and STATES[answer.state].meaning is not Meaning.ENDED:
        return CouldNotLook(f"accounting lags behind: it says {row.word}, slurmctld knows no such job")
    return answer
