"""The base of all service settings: environment variables and secret files, read once in `main()` and validated.

And their logs: to stderr, one line a message, whatever a client or the cluster put into it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .errors import ConfigurationError
from .store import RedisLogin
from .values import is_seen

SECRETS_DIR = "/run/secrets"
DEFAULT_SITE_FILE = Path("/etc/bouchet/sites/demo.yaml")
DEFAULT_CATALOG = Path("/etc/bouchet/models.yaml")
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
SWITCH = {"on": True, "1": True, "yes": True, "true": True, "off": False, "0": False, "no": False, "false": False}


def _invalid(problem: str) -> PydanticCustomError:
    return PydanticCustomError("setting", "{problem}", {"problem": problem})


def _port(value: object) -> int:
    text = str(value)
    if not text.isascii() or not text.isdigit() or not 0 <= int(text) <= 65535:
        raise _invalid("not a port (0 to 65535)")
    return int(text)


def _count(value: object) -> int:
    text = str(value)
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise _invalid("not a whole number of 1 or more")
    return int(text)


def _seconds(value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise _invalid("not a number of seconds of 0 or more")
    return number


def _http_url(value: object) -> str:
    text = str(value).rstrip("/")
    scheme, _, rest = text.partition("://")
    if scheme not in ("http", "https") or not rest or any(c.isspace() for c in rest):
        raise _invalid("not a URL such as http://gateway:8090")
    return text


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    switch = SWITCH.get(str(value).strip().lower())
    if switch is None:
        raise _invalid("neither on nor off")
    return switch


def _log_level(value: object) -> str:
    level = str(value).upper()
    if level not in LOG_LEVELS:
        raise _invalid(f"not one of {', '.join(LOG_LEVELS)}")
    return level


Port = Annotated[int, BeforeValidator(_port)]
Count = Annotated[int, BeforeValidator(_count)]
Seconds = Annotated[float, BeforeValidator(_seconds)]
HttpUrl = Annotated[str, BeforeValidator(_http_url)]
Switch = Annotated[bool, BeforeValidator(_switch)]
LogLevel = Annotated[str, BeforeValidator(_log_level)]


class EnvironmentSettings(BaseSettings):
    """Settings whose fields name their environment variable as `validation_alias`.

    A field of type SecretStr is read from the file of its own name in SECRETS_DIR, never from a variable.
    Building a value directly reads neither variables nor files: `from_environment` does, from the mapping given to it.
    """

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, extra="forbid", validate_default=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave the arguments as the only source, so that os.environ is never read behind the caller's back."""
        return (init_settings,)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], **given: Any) -> Self:
        """Read all settings but the given ones; an empty variable counts as unset.

        Raises ConfigurationError, which names the variable or the secret file at fault.
        """
        secrets = SecretFiles(cls, Path(environment.get("SECRETS_DIR") or SECRETS_DIR))
        values = {**Variables(cls, environment)(), **given}
        try:
            return cls(**{**secrets(), **values})
        except ValidationError as exc:
            raise ConfigurationError("environment", _describe(cls, exc)) from exc


class Variables(PydanticBaseSettingsSource):
    """Settings source: the variables of one mapping, which need not be this process's environment."""

    def __init__(self, settings_cls: type[BaseSettings], environment: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self._environment = environment

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the variable's text, None when it is unset or empty."""
        variable = field.validation_alias
        text = self._environment.get(variable, "").strip() if isinstance(variable, str) else ""
        return text or None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the fields whose variable is set."""
        return _values_of(self, self.settings_cls)


class SecretFiles(PydanticBaseSettingsSource):
    """Settings source: one file a secret, as containers have them. A field that may be None may be absent."""

    def __init__(self, settings_cls: type[BaseSettings], directory: Path) -> None:
        super().__init__(settings_cls)
        self._directory = directory

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the secret, None for a field that is none; ConfigurationError for a missing or empty file."""
        if field.annotation is SecretStr:
            return read_secret(self._directory, field_name), field_name, False
        if SecretStr in get_args(field.annotation):
            return optional_secret(self._directory, field_name), field_name, False
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the fields that have a secret."""
        return _values_of(self, self.settings_cls)


def read_secret(directory: Path, name: str) -> str:
    """Return the content of a secret file without its final newline; ConfigurationError if it is missing or empty."""
    secret = optional_secret(directory, name)
    if secret is None:
        problem = "is empty; delete it and run" if (directory / name).exists() else "does not exist; run"
        raise ConfigurationError(str(directory / name), f"the secret {problem} `make up` again")
    return secret


def optional_secret(directory: Path, name: str) -> str | None:
    """Return the content of a secret file, None if it is missing or empty."""
    path = directory / name
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(str(path), f"the secret cannot be read ({reason}); run `make up` again") from exc


class ServiceSettings(EnvironmentSettings):
    """What every service needs: how to reach Redis, and how much to log. redis_user: the service's own there."""

    redis_user: str
    redis_host: str = Field(default="redis", validation_alias="REDIS_HOST")
    redis_port: Port = Field(default=6379, validation_alias="REDIS_PORT")
    redis_password: SecretStr
    log_level: LogLevel = Field(default="INFO", validation_alias="LOG_LEVEL")

    @property
    def redis_login(self) -> RedisLogin:
        """Where Redis listens, and this service's user there."""
        return RedisLogin(self.redis_host, self.redis_port, self.redis_password.get_secret_value(), self.redis_user)


def _values_of(source: PydanticBaseSettingsSource, settings_cls: type[BaseSettings]) -> dict[str, Any]:
    values = {name: source.get_field_value(field, name)[0] for name, field in settings_cls.model_fields.items()}
    return {name: value for name, value in values.items() if value is not None}


def _describe(settings: type[BaseSettings], error: ValidationError) -> str:
    """Return the first problem as a sentence that names the variable."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    field = settings.model_fields.get(name)
    variable = field.validation_alias if field and field.validation_alias else name
    return f"{variable} is {first['input']!r}, {first['msg']}"


class OneLineFormatter(logging.Formatter):
    """Writes characters that are not seen as their codes: a text can neither steer a terminal nor look like a line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line of the message."""
        return _visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Return the traceback, whose lines stay lines."""
        return "\n".join(map(_visible, super().formatException(ei).split("\n")))


def start_logging(level: str) -> None:
    """Log to stderr from this level on."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter(LOG_FORMAT))
    logging.basicConfig(level=level, handlers=[handler])


def _visible(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if is_seen(one) else ascii(one)[1:-1] for one in text)
