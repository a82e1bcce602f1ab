"""The demo cluster's files agree with each other and with what the site file says."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SLURM_CONF = (ROOT / "demo/cluster/etc/slurm/slurm.conf").read_text()
ACCOUNTING = (ROOT / "demo/cluster/accounting.sh").read_text()
SITE: dict[str, Any] = yaml.safe_load((ROOT / "sites/demo.yaml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "demo/compose.yaml").read_text())
PARTITIONS: list[dict[str, Any]] = SITE["partitions"]
LIVING = ["demo-ctl", "demo-login", "demo-node1", "demo-node2"]


def partition_line(name: str) -> dict[str, str]:
    (line,) = re.findall(rf"^PartitionName={name} .*$", SLURM_CONF, re.M)
    return dict(word.split("=", 1) for word in line.split())


@pytest.mark.parametrize("partition", PARTITIONS, ids=lambda partition: partition["name"])
def test_slurm_conf_walltimes_match_site_file(partition: dict[str, Any]) -> None:
    assert partition_line(partition["name"])["MaxTime"] == partition["max_walltime"]


def test_slurm_conf_has_no_other_partitions() -> None:
    assert sorted(re.findall(r"^PartitionName=(\S+)", SLURM_CONF, re.M)) == sorted(p["name"] for p in PARTITIONS)


def test_slurm_conf_nodes_match_site_file() -> None:
    (line,) = re.findall(r"^NodeName=.*$", SLURM_CONF, re.M)
    node = dict(word.split("=", 1) for word in line.split())
    for partition in PARTITIONS:
        assert int(node["CPUs"]) == partition["cpus_per_node"]
        assert int(node["RealMemory"]) == partition["memory_per_node_gib"] * 1024
    assert node["Gres"] == f"gpu:{SITE['gpu_type']}:2"


@pytest.mark.parametrize("name", ["gpu_devel", "gpu_h200"])
def test_accounting_gpu_limits_match_site_file(name: str) -> None:
    (partition,) = [partition for partition in PARTITIONS if partition["name"] == name]
    assert partition_line(name)["QOS"] == name
    assert f"modify qos {name} set MaxTRESPU=gres/gpu={partition['max_gpus']}\n" in ACCOUNTING


def test_accounting_limits_jobs_of_gpu_devel() -> None:
    (partition,) = [partition for partition in PARTITIONS if partition["name"] == "gpu_devel"]
    limits = f"MaxJobsPU={partition['max_running']} MaxSubmitJobsPU={partition['max_submitted']}"
    assert f"add qos gpu_devel set {limits} " in ACCOUNTING


@pytest.mark.parametrize("name", LIVING)
def test_demo_containers_are_hardened(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert "SYS_ADMIN" not in service["cap_add"]
    assert service["mem_limit"]
    assert service["healthcheck"]
    assert not service.get("privileged")
    assert not service.get("ports")


def test_demo_uplink_has_login_node_only() -> None:
    on_uplink = [name for name in LIVING if "uplink" in COMPOSE["services"][name]["networks"]]
    assert on_uplink == ["demo-login"]
    assert COMPOSE["networks"]["cluster"]["internal"] is True


def test_gateway_mounts_demo_keys_only() -> None:
    assert [volume["source"] for volume in COMPOSE["services"]["gateway"]["volumes"]] == ["demo-gateway-keys"]
    holders = {
        name
        for name, service in COMPOSE["services"].items()
        if any(volume["source"] == "demo-gateway-keys" for volume in service["volumes"])
    }
    assert holders == {"gateway", "demo-keys"}
