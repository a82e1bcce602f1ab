"""The probe of a slot: the job's key is sent on no connection on which the server has not proved that it holds it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from bouchet_core.deployments import Job, Phase
from bouchet_core.keys import serving_key
from bouchet_worker.reconcile.health import SlotProbe
from bouchet_worker.reconcile.observation import HealthStatus
from bouchet_worker.reconcile.smoke_test import ExpectedModel, ServerGoneError, run_smoke_test

from tests.fakes.slurm_gateway import serve_http
from tests.fakes.vllm.worker_server import WorkerVLLM, worker_vllm
from tests.worker.scenario import SECRET

JOB = Job(name="bouchet-aa-1", slot=0, phase=Phase.STARTING, node="node1", port=20_001, proves=True)
EXPECTED = ExpectedModel("m", None, "none", "hermes", None)


@pytest.fixture
def vllm() -> type[WorkerVLLM]:
    return worker_vllm(key=serving_key(SECRET, JOB.name), proof_port=20_001, window=4321)


@pytest.fixture
def probe(vllm: type[WorkerVLLM]) -> Iterator[SlotProbe]:
    with serve_http(vllm) as port:
        made = SlotProbe("127.0.0.1", port, SECRET)
        yield made
        made.close()


def test_window_and_version_are_read_on_a_proved_connection(probe: SlotProbe, vllm: type[WorkerVLLM]) -> None:
    report = probe.health(JOB)
    assert (report.status, report.window, report.vllm_version) == (HealthStatus.HEALTHY, 4321, "0.32.0")
    assert vllm.unproved == []


def test_smoke_test_sends_the_key_on_proved_connections_only(probe: SlotProbe, vllm: type[WorkerVLLM]) -> None:
    with probe.client(JOB) as http:
        result = run_smoke_test(http, EXPECTED, lambda: probe.is_healthy(JOB))
    # the stream ends its connection, so there is more than one
    assert (result.stream.result, result.tools.result) == ("ok", "ok")
    assert vllm.unproved == []


def test_key_is_not_sent_to_an_impostor_on_a_new_connection(probe: SlotProbe, vllm: type[WorkerVLLM]) -> None:
    with probe.client(JOB) as http:
        assert http.get("/v1/models").is_success
        vllm.impostor = True
        http.get("/v1/models")
    with probe.client(JOB) as http:
        with pytest.raises(httpx.ConnectError, match="does not prove"):
            http.get("/v1/models")
        with pytest.raises(ServerGoneError):
            run_smoke_test(http, EXPECTED, lambda: probe.is_healthy(JOB))
    assert vllm.unproved == [] and vllm.received == []


def test_server_of_an_older_script_needs_no_proof(probe: SlotProbe, vllm: type[WorkerVLLM]) -> None:
    vllm.proof_port = None
    with probe.client(JOB.model_copy(update={"proves": False})) as http:
        assert http.get("/v1/models").is_success
