"""The site file's partitions against Slurm's."""

from __future__ import annotations

from bouchet_core.config.site import Site
from bouchet_core.doctor import DoctorCheck, Verdict
from bouchet_worker.doctor.partitions import parse_nodes, parse_partitions, parse_qos, partition_checks

from .cluster_output import NODES, PARTITIONS, QOS, verdicts


def checks_by_name(site: Site, partitions: str, nodes: str, qos: str) -> dict[str, DoctorCheck]:
    checks = partition_checks(site, parse_partitions(partitions), parse_nodes(nodes), parse_qos(qos))
    return {check.name: check for check in checks}


def test_partition_checks_of_matching_site_file_pass(demo_site: Site) -> None:
    checks = checks_by_name(demo_site, PARTITIONS, NODES, QOS)
    assert set(checks) == {p.name for p in demo_site.partitions}
    assert {check.verdict for check in checks.values()} == {Verdict.PASS}, checks
    assert "2 GPUs, 16 CPUs, 125 GiB" in checks["gpu_h200"].message


def test_partition_missing_in_slurm_fails_when_it_is_needed(demo_site: Site) -> None:
    # downloads run in `day`
    check = checks_by_name(demo_site, PARTITIONS.replace("PartitionName=day", "PartitionName=d"), NODES, QOS)["day"]
    assert check.verdict is Verdict.FAIL and "d, gpu_devel" in check.message


def test_partition_with_other_limits_is_warning_with_every_difference(demo_site: Site) -> None:
    shorter = PARTITIONS.replace("MaxTime=2-00:00:00", "MaxTime=12:00:00")
    check = checks_by_name(demo_site, shorter, NODES, QOS.replace("gres/gpu=3||", "gres/gpu:h200=2,mem=64G|4|9"))[
        "gpu_h200"
    ]
    assert check.verdict is Verdict.WARN and "sites/demo.yaml" in check.fix
    assert check.message.split("; ") == [
        "max_walltime is 2-00:00:00, Slurm's is 12:00:00",
        "max_gpus is 3, Slurm's is 2",
        "max_memory_gib is not set, Slurm's is 64",
        "max_running is not set, Slurm's is 4",
        "max_submitted is not set, Slurm's is 9",
    ]


def test_partition_with_smaller_nodes_is_warning_with_every_difference(demo_site: Site) -> None:
    smaller = NODES.replace("scavenge_gpu|gpu:h200:2|16", "scavenge_gpu|gpu:a100:1|8")
    check = checks_by_name(demo_site, PARTITIONS, smaller, QOS)["scavenge_gpu"]
    assert "gpus_per_node is 2, its largest node has 1" in check.message
    assert "no h200 GPUs there, but a100" in check.message


def test_partition_that_is_down_is_warning(demo_site: Site) -> None:
    down = PARTITIONS.replace("Nodes=node[1-2] State=UP", "Nodes=node[1-2] State=DRAIN")
    assert checks_by_name(demo_site, down, NODES, QOS)["gpu_h200"].verdict is Verdict.WARN


def test_partition_checks_without_qos_leave_user_limits_unknown(demo_site: Site) -> None:
    checks = partition_checks(demo_site, parse_partitions(PARTITIONS), parse_nodes(NODES), None)
    assert verdicts(checks)["limits of a user"] == "unknown"
