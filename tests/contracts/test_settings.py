"""Every service reads its settings in one way: a bad value ends the start with a sentence that names it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bouchet_api.settings import ApiSettings
from bouchet_core.errors import ConfigurationError
from bouchet_core.settings import ServiceSettings
from bouchet_gateway.settings import GatewaySettings
from bouchet_proxy.settings import ProxySettings
from bouchet_worker.settings import WorkerSettings

SERVICES: tuple[type[ServiceSettings], ...] = (ApiSettings, GatewaySettings, ProxySettings, WorkerSettings)
SECRETS = (
    "admin_key", "api_key", "attach_secret", "chat_key", "gateway_token", "gateway_token_api", "gateway_token_worker",
    "redis_password", "serving_secret",
)  # fmt: skip
SITE_FILE = Path(__file__).parents[2] / "sites" / "demo.yaml"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    for name in SECRETS:
        (tmp_path / name).write_text(f"the-{name}\n")
    return {"SECRETS_DIR": str(tmp_path), "BOUCHET_SITE_FILE": str(SITE_FILE)}


@pytest.mark.parametrize("service", SERVICES)
def test_settings_hide_every_secret(environment: dict[str, str], service: type[ServiceSettings]) -> None:
    read = service.from_environment({**environment, "REDIS_PORT": "7000"})
    assert (read.redis_host, read.redis_port) == ("redis", 7000)
    assert not any(f"the-{name}" in repr(read) for name in SECRETS)


@pytest.mark.parametrize("service", SERVICES)
def test_settings_name_each_missing_secret(
    environment: dict[str, str], tmp_path: Path, service: type[ServiceSettings]
) -> None:
    for name in set(SECRETS) & set(service.model_fields):
        (tmp_path / name).rename(tmp_path / "away")
        with pytest.raises(ConfigurationError, match=f"{name}.*`make up` again"):
            service.from_environment(environment)
        (tmp_path / "away").rename(tmp_path / name)


@pytest.mark.parametrize(
    ("service", "name", "value"),
    [
        (ApiSettings, "API_PORT", "40o1"),
        (ApiSettings, "GATEWAY_URL", "gateway"),
        (ApiSettings, "LEDGER_KEEP_DAYS", "0"),
        (ApiSettings, "LEDGER_MAX_MB", "many"),
        (GatewaySettings, "GATEWAY_PORT", "70000"),
        (GatewaySettings, "SLOT_COUNT", "0"),
        (ProxySettings, "PROXY_PORT", "x"),
        (ProxySettings, "DIRECT", "maybe"),
        (ProxySettings, "HOLD_STARTING_S", "soon"),
        (ProxySettings, "HOLD_TUNNEL_S", "-1"),
        (ProxySettings, "CONTINUE_ANSWERS", "perhaps"),
        (ProxySettings, "BROWSER_ORIGINS", "*"),
        (WorkerSettings, "SLOT_BASE_PORT", "x"),
        (WorkerSettings, "LOG_LEVEL", "LOUD"),
        (WorkerSettings, "BOUCHET_BUDGET", "40h"),
    ],
)
def test_settings_name_the_variable_with_a_bad_value(
    environment: dict[str, str], service: type[ServiceSettings], name: str, value: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is {value!r}"):
        service.from_environment({**environment, name: value})


@pytest.mark.parametrize(("value", "seconds"), [("0", 0.0), ("", 240.0), ("1.5", 1.5)])
def test_proxy_hold_starting_s_may_be_zero_or_unset(environment: dict[str, str], value: str, seconds: float) -> None:
    assert ProxySettings.from_environment({**environment, "HOLD_STARTING_S": value}).hold_starting_s == seconds


def test_proxy_browser_origins_are_a_list_that_is_empty_by_default(environment: dict[str, str]) -> None:
    for value, origins in (("", set()), ("http://a:1, https://b", {"http://a:1", "https://b"})):
        assert ProxySettings.from_environment({**environment, "BROWSER_ORIGINS": value}).browser_origins == origins


def test_worker_owner_is_its_name_or_its_host_name(environment: dict[str, str]) -> None:
    assert WorkerSettings.from_environment({**environment, "WORKER_NAME": "w-1"}).owner == "w-1"
    assert WorkerSettings.from_environment(environment).owner


@pytest.mark.slow
@pytest.mark.parametrize("program", ["bouchet_api", "bouchet_gateway", "bouchet_proxy", "bouchet_worker"])
def test_program_with_a_bad_setting_prints_one_sentence_and_fails(environment: dict[str, str], program: str) -> None:
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-m", program],
        env={**paths, **environment, "REDIS_PORT": "x"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert "REDIS_PORT is 'x', not a port" in done.stderr
    assert len(done.stderr.splitlines()) == 1
