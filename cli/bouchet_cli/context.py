"""What a command works with; the settings and the API client are created on first use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from .client.api import ApiClient
from .client.deployments import DeploymentInfo, ready_deployment
from .client.settings import CliSettings, read_settings
from .client.tickets import renew_tickets
from .view.screen import Screen


class CommandContext:
    """Screen, settings and API client of one command. Without a key, settings and api raise UnreachableError."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.screen = Screen(environment)

    @cached_property
    def settings(self) -> CliSettings:
        """Addresses and key of the local stack."""
        return read_settings(self.environment)

    @cached_property
    def api(self) -> ApiClient:
        """The API client. Tickets of a `kinit` since the last command are at the gateway before anything is asked."""
        renew_tickets(self.environment)
        return ApiClient(self.settings)

    def ready_deployment(self, name: str | None, *, wakes: bool = False) -> DeploymentInfo:
        """Return the newest ready deployment, or the newest of that name. Raises NotReadyError.

        wakes: one that is parked will do, if a request starts it.
        """
        return ready_deployment(self.api.deployments(live=True), name, wakes=wakes)
