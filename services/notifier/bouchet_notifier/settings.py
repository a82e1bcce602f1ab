"""Settings of the notifier, read from environment variables and secret files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from bouchet_core.notices import EVENTS, NoticeKind
from bouchet_core.settings import ServiceSettings
from pydantic import BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError


def _events(value: object) -> object:
    """Return the kinds that a text such as `ready,ended` names; `none` is no kind."""
    if not isinstance(value, str):
        return value
    names = [name.strip() for name in value.split(",") if name.strip()]
    if names == ["none"]:
        return ()
    unknown = [name for name in names if name not in EVENTS]
    if unknown:
        problem = f"`{unknown[0]}` is none of {', '.join(EVENTS)}; `none` alone switches all off"
        raise PydanticCustomError("events", "{problem}", {"problem": problem})
    return tuple(kind for kind in EVENTS if kind in names)


class NotifierSettings(ServiceSettings):
    """Targets and what is sent to them. events: of every deployment; one launched with `--notify` sends all kinds."""

    redis_user: str = "notifier"
    # one or more URLs, separated by blanks
    notify_urls: SecretStr | None = None
    events: Annotated[tuple[NoticeKind, ...], BeforeValidator(_events)] = Field(
        default=EVENTS, validation_alias="NOTIFY_EVENTS"
    )
    heartbeat_file: Path | None = Field(default=None, validation_alias="HEARTBEAT_FILE")
