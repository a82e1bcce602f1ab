"""A job keeps its key when SERVING_SECRET changes: the one in its folder is recorded, and no other server gets it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bouchet_core.deployments import Phase
from bouchet_core.keys import job_key, serving_key
from bouchet_worker.reconcile.decide import WRONG_SERVER
from bouchet_worker.reconcile.job_keys import read_record_file

from tests.conftest import RedisServer
from tests.fakes.slurm_gateway import FakeSlurm
from tests.worker.reconcile.unrecorded import flush
from tests.worker.scenario import ROOT, SECRET, Clock, MakeWorkerContext, WorkerScenario, write_connection

NEW_SECRET = "made with a new .env"


@pytest.fixture
def renewed(scenario: WorkerScenario, make_context: MakeWorkerContext, slurm: FakeSlurm) -> Iterator[WorkerScenario]:
    """Yield the scenario of a worker with a new SERVING_SECRET, over a deployment that is ready under the old one."""
    job_id = scenario.launch()
    scenario.slot0.vllm.proof_port = 20_001
    slurm.start(job_id)
    write_connection(slurm, job_id, proves=True)
    scenario.step(2)
    assert scenario.get().phase is Phase.READY
    context = make_context("worker-1", serving_secret=NEW_SECRET)
    made = WorkerScenario(context, context.gateway, scenario.slot0, slurm, scenario.clock, NEW_SECRET)
    yield made
    made.probe.close()


def test_job_of_the_old_secret_is_reached_with_the_key_of_its_folder(renewed: WorkerScenario) -> None:
    renewed.step(2)
    record = renewed.get()
    assert record.job is not None and record.job.sealed_key is not None
    old_key = serving_key(SECRET, record.job.name)
    assert old_key not in record.model_dump_json()
    assert job_key(NEW_SECRET, record.job.name, record.job.sealed_key) == old_key
    renewed.step()
    assert renewed.get().phase is Phase.READY and renewed.get().reason == ""


def test_job_of_the_old_secret_belongs_to_the_new_one(renewed: WorkerScenario, redis_server: RedisServer) -> None:
    """Redis may be lost later: then the job's folder is all that says whose it is."""
    renewed.step(2)
    before, context = renewed.get(), renewed.context
    assert before.job is not None
    file = read_record_file(context, before.job.name)
    assert file is not None and file.installation == context.installation
    flush(redis_server)
    renewed.step(4)
    after = renewed.get()
    assert (after.id, after.names, after.phase) == (before.id, before.names, Phase.READY), after.reason
    assert context.store.orphans.seen() == ()


def test_requeued_job_of_the_old_secret_becomes_ready(renewed: WorkerScenario, slurm: FakeSlurm) -> None:
    """Its folder, and so its key, stay when Slurm starts it again."""
    job = renewed.get().job
    assert job is not None and job.slurm_id is not None
    slurm.requeue(job.slurm_id)
    renewed.step()
    assert renewed.get().phase is Phase.QUEUED
    slurm.start(job.slurm_id)
    write_connection(slurm, job.slurm_id, proves=True)
    renewed.step(4)
    assert renewed.get().phase is Phase.READY, renewed.get().reason


def test_old_secret_that_is_found_again_opens_the_job_as_before(
    renewed: WorkerScenario, scenario: WorkerScenario
) -> None:
    renewed.step(2)
    scenario.step(2)
    record = scenario.get()
    assert record.job is not None and record.job.sealed_key is None
    assert (record.phase, record.reason) == (Phase.READY, "")


def test_another_process_on_the_port_gets_nothing_and_its_job_no_new_key(
    scenario: WorkerScenario, slurm: FakeSlurm, clock: Clock
) -> None:
    scenario.slot0.vllm.proof_port = 20_001
    job_id = scenario.launch()
    scenario.slot0.vllm.impostor = True
    slurm.start(job_id)
    write_connection(slurm, job_id, proves=True)
    asked: list[str] = []
    slurm.fault = lambda method, what: asked.append(f"{method} {what}")
    scenario.step(5)
    record = scenario.get()
    assert (record.phase, record.reason) == (Phase.STARTING, WRONG_SERVER)
    assert record.job is not None and record.job.sealed_key is None
    assert scenario.slot0.vllm.unproved == [] and scenario.slot0.vllm.received == []
    assert len([one for one in asked if one.endswith("/key")]) == 1, "the file is not read at every step"


@pytest.mark.parametrize("content", [b"", b"no key", b"\xff" * 64, b"ab" * 3000, None])
def test_key_file_without_a_key_changes_nothing(
    renewed: WorkerScenario, slurm: FakeSlurm, content: bytes | None
) -> None:
    job = renewed.get().job
    assert job is not None
    path = f"{ROOT}/jobs/{job.name}/key"
    assert path in slurm.files
    if content is None:
        del slurm.files[path]
    else:
        slurm.files[path] = content
    renewed.step(3)
    record = renewed.get()
    assert record.is_live and record.job is not None and record.job.sealed_key is None
