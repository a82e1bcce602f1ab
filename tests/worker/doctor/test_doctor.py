"""The doctor's looks at a cluster: texts of real Slurms, a login node's disk, and programs that fail."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from bouchet_core.config.catalog import Catalog
from bouchet_core.config.site import Site
from bouchet_core.deployments import Job
from bouchet_core.doctor import DoctorCheck, Verdict
from bouchet_core.errors import TunnelDownError
from bouchet_core.gateway_client import GatewayClient
from bouchet_worker.context import WorkerContext
from bouchet_worker.doctor import check_cluster
from bouchet_worker.doctor.checks import (
    OLDEST_DRIVER,
    catalog_checks,
    driver_checks,
    image_checks,
    image_path,
    storage_checks,
)
from bouchet_worker.doctor.partitions import parse_nodes, parse_partitions, parse_qos, partition_checks

from tests.remote.compute_node import SCRIPTS
from tests.worker.scenario import requested

ROOT = Path(__file__).parents[3]
PINS = ROOT / "apptainer" / "pins"
# slurm 24.11 of the demo cluster
PARTITIONS = """\
PartitionName=day AllowGroups=ALL QoS=N/A MaxNodes=UNLIMITED MaxTime=1-00:00:00 Nodes=node[1-2] State=UP TotalCPUs=32
PartitionName=gpu_devel AllowGroups=ALL QoS=gpu_devel MaxTime=06:00:00 Nodes=node[1-2] State=UP TotalCPUs=32
PartitionName=gpu_h200 AllowGroups=ALL QoS=gpu_h200 MaxTime=2-00:00:00 Nodes=node[1-2] State=UP TotalCPUs=32
PartitionName=scavenge_gpu AllowGroups=ALL QoS=N/A MaxTime=1-00:00:00 Nodes=node[1-2] State=UP TotalCPUs=32
"""
NODES = """\
day|gpu:h200:2|16|128000
gpu_devel|gpu:h200:2(S:0-1)|16|128000
gpu_h200|gpu:h200:2|16|128000+
gpu_h200|gpu:h200:1|8|64000
scavenge_gpu|gpu:h200:2|16|128000
"""
QOS = """\
normal||||
gpu_devel||cpu=12,gres/gpu=2|1|2
gpu_h200||gres/gpu=3||
"""


def verdicts(checks: list[DoctorCheck]) -> dict[str, str]:
    return {check.name: check.verdict.value for check in checks}


def seen(site: Site, **changes: Any) -> dict[str, Any]:
    free = {"exists": True, "writable": True, "nearest": "/", "free": 900 << 30, "total": 1000 << 30}
    paths = [path for path in (site.root, site.models_dir, site.images_dir, site.scratch_dir) if path]
    one = {"exists": True, "readable": True, "size": 9 << 30, "recorded": "a" * 64, "computed": None}
    base = {
        "directories": dict.fromkeys(paths, free),
        "images": {image_path(site, image): one for image in site.images},
        "quota": "",
        "models": [],
        "python": "3.6.8",
        "time": 0,
    }
    return {**base, **changes}


def test_a_site_file_like_its_slurm_passes(demo_site: Site) -> None:
    checks = partition_checks(demo_site, parse_partitions(PARTITIONS), parse_nodes(NODES), parse_qos(QOS))
    assert set(verdicts(checks)) == {p.name for p in demo_site.partitions}
    assert {check.verdict for check in checks} == {Verdict.PASS}, checks
    assert "2 GPUs, 16 CPUs, 125 GiB" in next(c.message for c in checks if c.name == "gpu_h200")


def test_what_differs_from_slurm_is_named(demo_site: Site) -> None:
    shorter = PARTITIONS.replace("MaxTime=2-00:00:00", "MaxTime=12:00:00").replace(
        "PartitionName=day", "PartitionName=d"
    )
    fewer = QOS.replace("gres/gpu=3||", "gres/gpu:h200=2,mem=64G|4|9")
    smaller = NODES.replace("scavenge_gpu|gpu:h200:2|16", "scavenge_gpu|gpu:a100:1|8")
    checks = partition_checks(demo_site, parse_partitions(shorter), parse_nodes(smaller), parse_qos(fewer))
    by_name = {check.name: check for check in checks}
    # downloads run there
    assert by_name["day"].verdict is Verdict.FAIL
    assert "it has d, gpu_devel" in by_name["day"].message
    said = by_name["gpu_h200"].message
    for words in ("max_walltime is 2-00:00:00, Slurm's is 12:00:00", "max_gpus is 3, Slurm's is 2",
                  "max_memory_gib is not set, Slurm's is 64", "max_running is not set, Slurm's is 4",
                  "max_submitted is not set, Slurm's is 9"):  # fmt: skip
        assert words in said
    said = by_name["scavenge_gpu"].message
    assert "gpus_per_node is 2, its largest node has 1" in said
    assert "no h200 GPUs there, but a100" in said
    assert "sites/demo.yaml" in by_name["scavenge_gpu"].fix


def test_a_partition_that_is_down_and_limits_that_nobody_shows(demo_site: Site) -> None:
    down = PARTITIONS.replace("Nodes=node[1-2] State=UP", "Nodes=node[1-2] State=DRAIN")
    checks = verdicts(partition_checks(demo_site, parse_partitions(down), parse_nodes(NODES), None))
    assert checks["gpu_h200"] == "warn"
    assert checks["limits of a user"] == "unknown"


def test_storage(bouchet_site: Site) -> None:
    site = bouchet_site
    full = {"exists": True, "writable": True, "nearest": "/", "free": 1 << 20, "total": 1000 << 30}
    absent = {**full, "exists": False, "free": 900 << 30}
    locked = {**absent, "writable": False, "nearest": "/gpfs"}
    look = seen(site, quota="fs  used  quota\nproject 950 1000 95%\nhome 1 125 1%")
    look["directories"] = {site.root: full, site.models_dir: locked, site.images_dir: absent, site.scratch_dir: {"exists": False, "error": "Permission denied"}}  # fmt: skip  # noqa: E501
    checks = {check.name.split()[0]: check for check in storage_checks(site, look)}
    assert {name: check.verdict.value for name, check in checks.items()} == {
        "root": "fail", "models_dir": "fail", "images_dir": "warn", "scratch_dir": "fail", "quota": "warn",
    }  # fmt: skip
    assert "/gpfs may not be written" in checks["models_dir"].message
    assert checks["quota"].message == "project 950 1000 95%"
    good = verdicts(storage_checks(site, seen(site, quota="project 10 1000 1%")))
    assert set(good.values()) == {"pass"}


def test_a_quota_that_nobody_can_tell_is_unknown(demo_site: Site, bouchet_site: Site) -> None:
    assert storage_checks(demo_site, seen(demo_site))[-1].verdict is Verdict.UNKNOWN
    silent = storage_checks(bouchet_site, seen(bouchet_site, quota="getquota: command not found"))[-1]
    assert silent.verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({}, "pass", "a job computes it before its first use"),
        ({"computed": "a" * 64}, "pass", "as a job computed it"),
        ({"computed": "b" * 64}, "fail", "its sha256 is bbbbbbbbbbbb..., recorded is aaaaaaaaaaaa..."),
        ({"recorded": None}, "fail", "has no recorded hash"),
        ({"exists": False}, "fail", "is not there"),
        ({"readable": False}, "fail", "may not be read"),
    ],
)
def test_images(demo_site: Site, change: dict[str, Any], verdict: str, words: str) -> None:
    look = seen(demo_site)
    path = image_path(demo_site, demo_site.images[0])
    look["images"][path] = {**look["images"][path], **change}
    [check] = image_checks(demo_site, look)
    assert (check.verdict.value, words in check.message) == (verdict, True), check


def test_an_image_that_is_not_the_default_is_only_a_warning(bouchet_site: Site) -> None:
    look = seen(bouchet_site)
    look["images"] = {path: {"exists": False} for path in look["images"]}
    assert verdicts(list(image_checks(bouchet_site, look))) == {"cuda13-0.32.0": "fail", "cuda128-0.19.1": "warn"}


def test_the_driver_against_each_images_cuda(bouchet_site: Site, demo_site: Site) -> None:
    [untold] = driver_checks(bouchet_site, None, "")
    assert (untold.verdict, "no job has run yet" in untold.message) == (Verdict.UNKNOWN, True)
    [none] = driver_checks(bouchet_site, None, "job 7")
    assert (none.verdict, "job 7 found no NVIDIA driver" in none.message) == (Verdict.UNKNOWN, True)
    old = driver_checks(bouchet_site, "575.57.08", "job 7")
    assert verdicts(old) == {"driver for cuda13-0.32.0": "fail", "driver for cuda128-0.19.1": "pass"}
    assert "job 7 saw driver 575.57.08; cuda13-0.32.0 needs 580 or newer" in old[0].message
    assert verdicts(driver_checks(demo_site, None, "")) == {"driver": "pass"}


def test_the_oldest_drivers_are_the_pins_own() -> None:
    pins = {p.parent.name: yaml.safe_load(p.read_text())["min_driver"] for p in PINS.glob("*/pin.yaml")}
    assert len(pins) >= 3
    for pin, oldest in pins.items():
        needed = [str(driver) for name, driver in OLDEST_DRIVER.items() if pin.startswith(name)]
        assert needed == ([oldest] if oldest else []), pin


def test_the_newest_job_that_knows_tells_the_driver(context: WorkerContext, bouchet_site: Site) -> None:
    for identity, driver in (("a", "580.95.05"), ("b", None)):
        record = requested(identity, context.now())
        context.store.create(record)
        job = Job(name=f"bouchet-{identity}-1", slot=0, slurm_id=7, image_sha256="a" * 64, driver=driver)
        context.store.update(identity, lambda d, job=job: d.with_job(job, context.now()))
    checks = check_cluster(replace(context, site=bouchet_site, gateway=door(healthy(bouchet_site))))
    said = next(c.message for c in checks if c.name == "driver for cuda13-0.32.0")
    assert said == "job 7 saw driver 580.95.05; cuda13-0.32.0 needs 580 or newer"


def test_the_catalog(bouchet_site: Site, demo_site: Site, catalog: Catalog) -> None:
    default = demo_site.default_model
    assert default is not None
    assert set(verdicts(catalog_checks(catalog, demo_site, [default])).values()) == {"pass"}
    assert verdicts(catalog_checks(catalog, demo_site, []))["models"] == "warn"
    entry = next(iter(catalog.entries.values()))
    clash = Catalog({"a/a": entry, "b/b": entry.model_copy(update={"image": "nosuch"})})
    found = {check.name: check for check in catalog_checks(clash, bouchet_site, ["a/a"])}
    assert found["aliases"].verdict is Verdict.FAIL
    assert "a/a and b/b" in found["aliases"].message
    assert "'nosuch'" in found["images"].message


def test_the_look_at_a_login_node(tmp_path: Path) -> None:
    sif = tmp_path / "images" / "cpu.sif"
    sif.parent.mkdir()
    sif.write_bytes(b"image")
    (tmp_path / "images" / "cpu.sif.sha256").write_text("abc  cpu.sif\n")
    known = sif.stat()
    hashes = tmp_path / "hashes"
    hashes.mkdir()
    (hashes / f"{known.st_ino}-{known.st_size}-{known.st_mtime_ns}").write_text("abc\n")
    (tmp_path / "models" / "org" / "one").mkdir(parents=True)
    (tmp_path / "models" / "models--org--two").mkdir()
    asked = {
        "directories": [str(tmp_path), str(tmp_path / "new" / "er"), "~/"],
        "images": [str(sif), str(tmp_path / "none.sif")],
        "hashes": str(hashes),
        "models_dir": str(tmp_path / "models"),
        "models": ["org/one", "org/two", "org/three"],
        "quota": ["echo", "used 5 of 10"],
    }
    done = subprocess.run(
        [sys.executable, SCRIPTS / "probe_login_node.py"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["directories"][str(tmp_path)]["exists"] is True
    new = told["directories"][str(tmp_path / "new" / "er")]
    assert (new["exists"], new["writable"], new["nearest"]) == (False, True, str(tmp_path))
    assert told["images"][str(sif)] == {
        "exists": True, "readable": True, "size": 5, "recorded": "abc", "computed": "abc",
    }  # fmt: skip
    assert told["images"][str(tmp_path / "none.sif")]["exists"] is False
    assert (told["models"], told["quota"]) == (["org/one", "org/two"], "used 5 of 10")


Programs = dict[str, Callable[[list[str]], tuple[int, str, str]]]


def door(programs: Programs) -> GatewayClient:
    """The gateway's client, with a cluster of these programs behind it."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            return httpx.Response(204)
        if request.method == "GET":
            return httpx.Response(404, json={"kind": "file_missing", "detail": "no file"})
        argv = json.loads(request.content)["argv"]
        status, out, err = programs[argv[0]](argv)
        return httpx.Response(200, json={"exit_status": status, "stdout": out, "stderr": err, "truncated": False})

    return GatewayClient("http://gateway", "token", httpx.MockTransport(answer))


def healthy(site: Site) -> Programs:
    return {
        "sinfo": lambda argv: (0, "slurm 24.11.5\n" if argv[1] == "--version" else NODES, ""),
        "squeue": lambda argv: (0, "", ""),
        "sacct": lambda argv: (0, "", ""),
        "scontrol": lambda argv: (0, PARTITIONS, ""),
        "sacctmgr": lambda argv: (0, QOS, ""),
        "sbatch": lambda argv: (0, "", "sbatch: Job 4 to start at 1 using 2 processors on nodes node1 in partition p"),
        "python3": lambda argv: (0, json.dumps(seen(site, models=[site.default_model])), ""),
    }


def test_a_round_over_a_healthy_cluster(context: WorkerContext) -> None:
    context = replace(context, gateway=door(healthy(context.site)))
    checks = check_cluster(context)
    assert {c.name: c.verdict.value for c in checks if c.verdict is not Verdict.PASS} == {
        "quota": "unknown",
        "clock": "warn",  # this login node lives in 1970
    }
    assert {c.area for c in checks} == {"slurm", "partitions", "storage", "images", "gpus", "catalog"}


@pytest.mark.parametrize("broken", ["sinfo", "squeue", "sacct", "scontrol", "sacctmgr", "sbatch", "python3"])
def test_a_program_that_fails_is_one_check_and_the_others_go_on(context: WorkerContext, broken: str) -> None:
    programs = healthy(context.site)
    programs[broken] = lambda argv: (1, "", f"{broken}: it is broken")
    checks = check_cluster(replace(context, gateway=door(programs)))
    assert any("it is broken" in c.message or "does not show" in c.message for c in checks)
    assert sum(c.verdict is Verdict.PASS for c in checks) >= 8
    assert all(c.fix for c in checks if c.verdict in (Verdict.WARN, Verdict.FAIL))


def test_ones_own_jobs_in_the_way_are_no_fault(context: WorkerContext) -> None:
    programs = healthy(context.site)
    programs["sbatch"] = lambda argv: (1, "", "sbatch: error: QOSMaxSubmitJobPerUserLimit\nallocation failure")
    checks = check_cluster(replace(context, gateway=door(programs)))
    assert {c.verdict for c in checks if c.name.startswith("sbatch")} == {Verdict.PASS}


def test_no_way_to_the_cluster_is_no_finding(context: WorkerContext) -> None:
    def down(_: httpx.Request) -> httpx.Response:
        return httpx.Response(503, json={"kind": "tunnel_down", "detail": "no SSH connection"})

    with pytest.raises(TunnelDownError):
        check_cluster(replace(context, gateway=GatewayClient("http://gateway", "token", httpx.MockTransport(down))))
