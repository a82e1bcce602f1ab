"""All checks against a gateway whose programs answer, fail or are unreachable."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import httpx
import pytest
from bouchet_core.config.site import Site
from bouchet_core.deployments import Deployment, Job
from bouchet_core.doctor import Verdict
from bouchet_core.errors import TunnelDownError
from bouchet_core.gateway_client import GatewayClient
from bouchet_worker.context import WorkerContext
from bouchet_worker.doctor import check_cluster

from tests.worker.scenario import requested

from .cluster_output import NODES, PARTITIONS, QOS, probe_result

Programs = dict[str, Callable[[list[str]], tuple[int, str, str]]]
TEST_ONLY = "sbatch: Job 4 to start at 1 using 2 processors on nodes node1 in partition p"


def gateway_to(programs: Programs) -> GatewayClient:
    """Return a client of a gateway, with a cluster of these programs behind it."""

    def respond(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            return httpx.Response(204)
        if request.method == "GET":
            return httpx.Response(404, json={"kind": "file_missing", "detail": "no file"})
        argv = json.loads(request.content)["argv"]
        status, stdout, stderr = programs[argv[0]](argv)
        return httpx.Response(200, json={"exit_status": status, "stdout": stdout, "stderr": stderr, "truncated": False})

    return GatewayClient("http://gateway", "token", httpx.MockTransport(respond))


def healthy_programs(site: Site) -> Programs:
    """Return the programs of a healthy cluster."""
    return {
        "sinfo": lambda argv: (0, "slurm 24.11.5\n" if argv[1] == "--version" else NODES, ""),
        "squeue": lambda argv: (0, "", ""),
        "sacct": lambda argv: (0, "", ""),
        "scontrol": lambda argv: (0, PARTITIONS, ""),
        "sacctmgr": lambda argv: (0, QOS, ""),
        "sbatch": lambda argv: (0, "", TEST_ONLY),
        "python3": lambda argv: (0, json.dumps(probe_result(site, models=[site.default_model])), ""),
    }


def test_check_cluster_of_healthy_cluster_passes(context: WorkerContext) -> None:
    checks = check_cluster(replace(context, gateway=gateway_to(healthy_programs(context.site))))
    assert {c.name: c.verdict.value for c in checks if c.verdict is not Verdict.PASS} == {
        "quota": "unknown",
        "clock": "warn",  # this login node's clock shows 1970
    }
    assert {c.area for c in checks} == {"slurm", "partitions", "storage", "images", "gpus", "catalog"}


@pytest.mark.parametrize("broken", ["sinfo", "squeue", "sacct", "scontrol", "sacctmgr", "sbatch", "python3"])
def test_check_cluster_with_failing_program_goes_on(context: WorkerContext, broken: str) -> None:
    programs = healthy_programs(context.site)
    programs[broken] = lambda argv: (1, "", f"{broken}: it is broken")
    checks = check_cluster(replace(context, gateway=gateway_to(programs)))
    assert any(c.verdict is not Verdict.PASS and broken in c.message for c in checks)
    assert sum(c.verdict is Verdict.PASS for c in checks) >= 8
    assert all(c.fix for c in checks if c.verdict in (Verdict.WARN, Verdict.FAIL))


@pytest.mark.parametrize(
    ("version", "verdict"),
    [("slurm 24.11.5", Verdict.PASS), ("slurm 20.02.1", Verdict.WARN), ("slurm unknown", Verdict.UNKNOWN)],
)
def test_check_cluster_judges_slurm_version(context: WorkerContext, version: str, verdict: Verdict) -> None:
    programs = healthy_programs(context.site)
    programs["sinfo"] = lambda argv: (0, version if argv[1] == "--version" else NODES, "")
    checks = check_cluster(replace(context, gateway=gateway_to(programs)))
    assert next(c.verdict for c in checks if c.name == "version") is verdict


def test_test_job_refused_for_own_jobs_passes(context: WorkerContext) -> None:
    programs = healthy_programs(context.site)
    programs["sbatch"] = lambda argv: (1, "", "sbatch: error: QOSMaxSubmitJobPerUserLimit\nallocation failure")
    checks = check_cluster(replace(context, gateway=gateway_to(programs)))
    assert {c.verdict for c in checks if c.name.startswith("sbatch")} == {Verdict.PASS}


def test_check_cluster_takes_driver_from_newest_job_that_has_one(context: WorkerContext, bouchet_site: Site) -> None:
    for identity, driver in (("a", "580.95.05"), ("b", None)):
        context.store.create(requested(identity, context.now()))
        job = Job(name=f"bouchet-{identity}-1", slot=0, slurm_id=7, image_sha256="a" * 64, driver=driver)
        context.store.update(identity, partial(Deployment.with_job, job=job, now=context.now()))
    checks = check_cluster(replace(context, site=bouchet_site, gateway=gateway_to(healthy_programs(bouchet_site))))
    driver_check = next(c for c in checks if c.name == "driver for cuda13-0.32.0")
    assert driver_check.verdict is Verdict.PASS and "job 7 found driver 580.95.05" in driver_check.message


def test_check_cluster_without_tunnel_raises(context: WorkerContext) -> None:
    def down(_: httpx.Request) -> httpx.Response:
        return httpx.Response(503, json={"kind": "tunnel_down", "detail": "no SSH connection"})

    gateway = GatewayClient("http://gateway", "token", httpx.MockTransport(down))
    with pytest.raises(TunnelDownError):
        check_cluster(replace(context, gateway=gateway))
