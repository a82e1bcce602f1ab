"""What differs between two installations."""

from __future__ import annotations

from pathlib import Path

import pytest
from bouchet_api.settings import Settings
from bouchet_core.errors import ConfigurationError

SECRETS = ("api_key", "redis_password", "gateway_token")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    for name in SECRETS:
        (tmp_path / name).write_text(f"the-{name}\n")
    return {"SECRETS_DIR": str(tmp_path), "REDIS_PORT": "7000"}


def test_settings_say_where_things_are_and_never_a_secret(environment: dict[str, str]) -> None:
    settings = Settings.from_environment(environment)
    assert (settings.redis_host, settings.redis_port, settings.api_port) == ("redis", 7000, 4001)
    assert settings.api_key == "the-api_key"
    assert not any(f"the-{name}" in repr(settings) for name in SECRETS)


@pytest.mark.parametrize(("name", "value"), [("API_PORT", "40o1"), ("REDIS_PORT", "70000"), ("LOG_LEVEL", "LOUD")])
def test_a_setting_that_makes_no_sense_is_named(environment: dict[str, str], name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is {value!r}"):
        Settings.from_environment({**environment, name: value})


@pytest.mark.parametrize("name", SECRETS)
def test_a_missing_secret_is_named(environment: dict[str, str], tmp_path: Path, name: str) -> None:
    (tmp_path / name).unlink()
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_environment(environment)
