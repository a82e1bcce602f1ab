"""Requests repeated while the API restarts."""

from __future__ import annotations

from typing import Any

import pytest
from bouchet_cli.client.api import ApiClient
from bouchet_cli.client.deployments import DeploymentInfo
from bouchet_cli.client.errors import CommandError, ResponseLostError, UnreachableError
from bouchet_cli.client.retry import retry_while_unavailable, submit_launch
from bouchet_cli.client.settings import CliSettings

from tests.cli.samples import deployment


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bouchet_cli.client.retry.RETRY_INTERVAL_S", 0.0)


class FlakyApi(ApiClient):
    """An API whose first answers are errors."""

    def __init__(self, *errors: CommandError) -> None:
        super().__init__(CliSettings("http://api", "http://proxy", "key"))
        self.errors, self.sent_keys = list(errors), list[str]()

    def launch(self, request: Any, key: str) -> DeploymentInfo:
        self.sent_keys.append(key)
        if self.errors:
            raise self.errors.pop(0)
        return deployment("a")


@pytest.mark.parametrize("error", [UnreachableError("down"), CommandError("redis is down", "store_unavailable")])
def test_temporary_error_is_repeated(error: CommandError) -> None:
    api = FlakyApi(error, error)
    assert retry_while_unavailable(lambda: api.launch({}, "k")).id == "a"
    assert len(api.sent_keys) == 3


@pytest.mark.parametrize("error", [UnreachableError("wrong key", "unauthorized"), CommandError("gone", "unknown")])
def test_permanent_error_is_raised(error: CommandError) -> None:
    api = FlakyApi(error)
    with pytest.raises(type(error)):
        retry_while_unavailable(lambda: api.launch({}, "k"))
    assert len(api.sent_keys) == 1


def test_retry_ends_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bouchet_cli.client.retry.RETRY_FOR_S", -1.0)
    api = FlakyApi(UnreachableError("down"))
    with pytest.raises(UnreachableError):
        retry_while_unavailable(lambda: api.launch({}, "k"))


def test_launch_whose_answer_is_lost_is_repeated_with_the_same_key() -> None:
    api = FlakyApi(ResponseLostError("lost"))
    assert submit_launch(api, {}).id == "a"
    assert len(api.sent_keys) == 2 and len(set(api.sent_keys)) == 1


def test_launch_with_a_wrong_key_is_not_repeated() -> None:
    api = FlakyApi(UnreachableError("wrong key", "unauthorized"))
    with pytest.raises(UnreachableError):
        submit_launch(api, {})
    assert len(api.sent_keys) == 1
