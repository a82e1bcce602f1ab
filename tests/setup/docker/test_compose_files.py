"""compose.yaml: every local container is locked down, and only two ports are published, on loopback."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from bouchet_core.keys import metrics_key

from setup.docker.engine import parse_ps, parse_version
from setup.docker.stack import METRICS_PROFILE
from setup.files.container_files import secret_contents

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def mounted_secrets(service: dict[str, Any]) -> dict[str, str]:
    """Return file below /run/secrets -> secret."""
    named = [{"source": one, "target": one} if isinstance(one, str) else one for one in service["secrets"]]
    return {one["target"]: one["source"] for one in named}


def test_compose_defines_six_services_and_prometheus_in_a_profile() -> None:
    assert set(SERVICES) == {"redis", "gateway", "worker", "api", "proxy", "notifier", "prometheus"}
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == {
        "prometheus": [METRICS_PROFILE]
    }


def test_prometheus_reads_its_keys_from_files_that_it_has() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    files = {one["authorization"]["credentials_file"] for one in config["scrape_configs"]}
    assert files == {f"/run/secrets/{name}" for name in mounted_secrets(SERVICES["prometheus"])}
    targets = {
        target for one in config["scrape_configs"] for part in one["static_configs"] for target in part["targets"]
    }
    assert targets == {"api:4001", "proxy:4000"}
    values = {"REDIS_PASSWORD": "p", "GATEWAY_TOKEN": "t", "BOUCHET_API_KEY": "k", "SERVING_SECRET": "s"}
    found = secret_contents({**values, "BOUCHET_ADMIN_KEY": "a"})
    assert (found["metrics_key"], found["proxy_metrics_key"]) == (metrics_key("a"), metrics_key("k"))


@pytest.mark.parametrize("name", SERVICES)
def test_containers_are_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True and service["init"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].startswith("${BOUCHET_UID:-10001}")
    assert "privileged" not in service
    for key in ("mem_limit", "pids_limit", "healthcheck", "stop_grace_period", "logging", "restart"):
        assert service[key]


def test_compose_publishes_proxy_and_api_on_loopback_only() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"proxy", "api", "prometheus"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_uplink_network_has_gateway_only() -> None:
    assert [name for name, service in SERVICES.items() if "uplink" in service["networks"]] == ["gateway"]
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    masquerade = COMPOSE["networks"]["edge"]["driver_opts"]["com.docker.network.bridge.enable_ip_masquerade"]
    assert masquerade == "false"


def test_notifier_reaches_the_internet_and_no_service_but_redis() -> None:
    assert SERVICES["notifier"]["networks"] == ["notices", "outside"]
    beside = {name for name, service in SERVICES.items() if {"notices", "outside"} & set(service["networks"])}
    assert beside == {"notifier", "redis"} and "outside" not in SERVICES["redis"]["networks"]
    assert COMPOSE["networks"]["notices"] == {"internal": True}
    assert "volumes" not in SERVICES["notifier"] and "ports" not in SERVICES["notifier"]


def test_services_mount_only_their_own_secrets() -> None:
    assert {name: mounted_secrets(service) for name, service in SERVICES.items()} == {
        "redis": {"redis_acl": "redis_acl", "redis_password": "redis_health"},
        "gateway": {
            "gateway_token_api": "gateway_token_api",
            "gateway_token_worker": "gateway_token_worker",
            "redis_password": "redis_gateway",
        },
        "worker": {
            "redis_password": "redis_worker",
            "gateway_token": "gateway_token_worker",
            "serving_secret": "serving_secret",
            "hf_token": "hf_token",
        },
        "api": {
            "admin_key": "admin_key",
            "attach_secret": "attach_secret",
            "chat_key": "chat_key",
            "db_url": "db_url",
            "redis_password": "redis_api",
            "gateway_token": "gateway_token_api",
        },
        "proxy": {"api_key": "api_key", "redis_password": "redis_proxy", "serving_secret": "serving_secret"},
        "notifier": {"notify_urls": "notify_urls", "redis_password": "redis_notifier"},
        # neither the admin key nor the owner's: they open all
        "prometheus": {"metrics_key": "metrics_key", "proxy_metrics_key": "proxy_metrics_key"},
    }


def test_every_secret_file_is_written_by_setup() -> None:
    values = {"REDIS_PASSWORD": "p", "GATEWAY_TOKEN": "t", "BOUCHET_API_KEY": "k", "SERVING_SECRET": "s"}
    values["BOUCHET_ADMIN_KEY"] = "a"
    assert set(COMPOSE["secrets"]) - {"build_ca"} == set(secret_contents(values))


def test_compose_environment_has_no_secret() -> None:
    names = {name for service in SERVICES.values() for name in service.get("environment", {})}
    assert not [name for name in names if name.endswith(("_KEY", "_TOKEN", "_PASSWORD", "_SECRET"))]


def test_parse_ps_accepts_lines_and_array() -> None:
    lines = 'time="x" level=warning msg="y"\n{"Service":"a","State":"running"}\n{"Service":"b"}\n'
    assert [row["Service"] for row in parse_ps(lines)] == ["a", "b"]
    assert [row["Service"] for row in parse_ps('[{"Service":"a"}]\n')] == ["a"]


@pytest.mark.parametrize(
    ("text", "version"), [("2.40.3\n", (2, 40)), ("v2.5.0-rc1", (2, 5)), ("", (0, 0)), ("dev", (0, 0))]
)
def test_parse_version_reads_major_and_minor(text: str, version: tuple[int, int]) -> None:
    assert parse_version(text) == version


NAMED_SECRETS = {
    "owner's key": "api_key",
    "admin key": "admin_key",
    "key for chats": "chat_key",
    "key for metrics": "metrics_key",
    "two keys": "proxy_metrics_key",
    "secret that seals the keys of attached servers": "attach_secret",
    "URL of the ledger's database": "db_url",
    "password in Redis": "redis_password",
    "its gateway token": "gateway_token",
    "both gateway tokens": "gateway_token_api",
    "SERVING_SECRET": "serving_secret",
    "hub token": "hf_token",
    "URLs of the targets": "notify_urls",
}


@pytest.mark.parametrize("name", ["proxy", "api", "gateway", "worker", "notifier", "prometheus"])
def test_threat_model_lists_the_secrets_of_each_service(name: str) -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    held = re.search(rf"^\| {name} \| ([^|]*)\|", page, re.MULTILINE | re.IGNORECASE)
    assert held
    listed = {secret for words, secret in NAMED_SECRETS.items() if words in held[1]}
    mounted = set(mounted_secrets(SERVICES[name])) - {"gateway_token_worker"}
    assert listed == mounted, "docs/security.md says what is true now"
