"""Settings: variables of a given mapping and secret files, validated; a bad value is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from bouchet_core.errors import ConfigurationError
from bouchet_core.settings import Count, HttpUrl, Port, Seconds, ServiceSettings, Switch
from pydantic import Field, SecretStr


class SampleSettings(ServiceSettings):
    """One field of each kind."""

    token: SecretStr
    spare_token: SecretStr | None = None
    port: Port = Field(default=4000, validation_alias="SAMPLE_PORT")
    slots: Count = Field(default=8, validation_alias="SLOTS")
    redis_user: str = "sample"
    hold_s: Seconds = Field(default=240.0, validation_alias="HOLD_S")
    url: HttpUrl = Field(default="http://gateway:8090", validation_alias="URL")
    direct: Switch = Field(default=True, validation_alias="DIRECT")
    folder: Path = Field(default=Path("/data"), validation_alias="FOLDER")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    for name in ("redis_password", "token"):
        (tmp_path / name).write_text(f"the-{name}\n")
    return {"SECRETS_DIR": str(tmp_path)}


def test_from_environment_without_variables_returns_defaults(environment: dict[str, str]) -> None:
    read = SampleSettings.from_environment(environment)
    assert (read.redis_host, read.redis_port, read.log_level) == ("redis", 6379, "INFO")
    assert (read.port, read.slots, read.hold_s, read.direct, read.folder) == (4000, 8, 240.0, True, Path("/data"))


def test_from_environment_parses_every_variable(environment: dict[str, str]) -> None:
    variables = {"REDIS_HOST": "r", "REDIS_PORT": "7000", "LOG_LEVEL": "debug", "SAMPLE_PORT": "0", "SLOTS": "2"}
    more = {"HOLD_S": "0", "URL": "https://g/", "DIRECT": " Off ", "FOLDER": "/x"}
    read = SampleSettings.from_environment({**environment, **variables, **more})
    assert (read.redis_host, read.redis_port, read.log_level) == ("r", 7000, "DEBUG")
    assert (read.port, read.slots, read.hold_s, read.url) == (0, 2, 0.0, "https://g")
    assert (read.direct, read.folder) == (False, Path("/x"))


def test_from_environment_ignores_empty_variables(environment: dict[str, str]) -> None:
    empty = dict.fromkeys(("REDIS_HOST", "REDIS_PORT", "LOG_LEVEL", "HOLD_S", "DIRECT", "FOLDER"), "")
    assert SampleSettings.from_environment({**environment, **empty}) == SampleSettings.from_environment(environment)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_PORT", "x"),
        ("REDIS_PORT", "70000"),
        ("REDIS_PORT", "-1"),
        ("REDIS_PORT", "٣"),
        ("SAMPLE_PORT", "40o1"),
        ("LOG_LEVEL", "LOUD"),
        ("SLOTS", "0"),
        ("SLOTS", "1.5"),
        ("HOLD_S", "-1"),
        ("HOLD_S", "inf"),
        ("HOLD_S", "4 min"),
        ("URL", "gateway:8090"),
        ("URL", "http://"),
        ("DIRECT", "maybe"),
    ],
)
def test_from_environment_names_the_variable_with_a_bad_value(
    environment: dict[str, str], name: str, value: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SampleSettings.from_environment({**environment, name: value})
    assert f"{name} is {value!r}, " in str(caught.value)


def test_from_environment_reads_secrets_from_files_alone(environment: dict[str, str]) -> None:
    read = SampleSettings.from_environment({**environment, "TOKEN": "variable", "token": "variable"})
    assert read.token.get_secret_value() == "the-token"
    assert read.redis_password.get_secret_value() == "the-redis_password"
    assert "the-" not in repr(read)


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_from_environment_with_a_missing_or_empty_secret_names_its_file(
    environment: dict[str, str], tmp_path: Path, content: str | None
) -> None:
    (tmp_path / "token").unlink()
    if content is not None:
        (tmp_path / "token").write_text(content)
    with pytest.raises(ConfigurationError, match=r"/token: .*`make up` again"):
        SampleSettings.from_environment(environment)


def test_from_environment_reads_an_optional_secret_if_it_exists(environment: dict[str, str], tmp_path: Path) -> None:
    assert SampleSettings.from_environment(environment).spare_token is None
    (tmp_path / "spare_token").write_text("spare")
    spare = SampleSettings.from_environment(environment).spare_token
    assert spare is not None and spare.get_secret_value() == "spare"


def test_settings_built_directly_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PORT", "x")
    built = SampleSettings(redis_password=SecretStr("p"), token=SecretStr("t"), port=1)
    assert (built.redis_port, built.port) == (6379, 1)
