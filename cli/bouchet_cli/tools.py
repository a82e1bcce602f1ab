"""What commands work with, each made when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from .client.api import Api
from .client.settings import Settings, read_settings
from .view.screen import Screen


class Tools:
    """The screen, the settings and the API of one call. Without a key both raise UnreachableError."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.screen = Screen(environment)

    @cached_property
    def settings(self) -> Settings:
        """Where the local stack is, and its key."""
        return read_settings(self.environment)

    @cached_property
    def api(self) -> Api:
        """The API, with the key."""
        return Api(self.settings)
