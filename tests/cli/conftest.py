"""A running API with its own Redis, one for each test process, and the command that uses it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout_guard import TEST_PROJECT
from tests.cli.harness import ADMIN_KEY, KEY, Bouchet, FakeGateway
from tests.fakes.chat_proxy import ChatProxy
from tests.fakes.running_api import RunningApi, reset_api, running_api_and_redis

FOREIGN = ("ANTHROPIC_", "CLAUDE_", "BOUCHET_")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningApi, ChatProxy]]:
    with running_api_and_redis(tmp_path_factory.mktemp("stack")) as api, ChatProxy() as proxy:
        yield api, proxy


@pytest.fixture(scope="session", autouse=True)
def _no_translations() -> Iterator[None]:
    """Spare argparse the search for a translation of each of its words, at every command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANGUAGE", "C")
        yield


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a command in this process poll often, and give up an API or a worker that is down at once."""
    monkeypatch.setattr("bouchet_cli.view.progress.POLL_INTERVAL_S", 0.05)
    monkeypatch.setattr("bouchet_cli.commands.tunnel.POLL_INTERVAL_S", 0.05)
    monkeypatch.setattr("bouchet_cli.client.api.RESTART_S", 0.0)
    monkeypatch.setattr("bouchet_api.model_status.WAIT_S", 0.2)


@pytest.fixture
def bouchet(stack: tuple[RunningApi, ChatProxy], tmp_path: Path) -> Bouchet:
    api, proxy = reset_api(stack[0]), stack[1]
    proxy.reset()
    port = api.url.rpartition(":")[2]
    env_file = tmp_path / ".env"
    keys = f"BOUCHET_API_KEY='{KEY}'\nBOUCHET_ADMIN_KEY={ADMIN_KEY}\n"
    env_file.write_text(f"# made by a test\n{keys}API_PORT={port}\nPROXY_PORT={proxy.port}\n")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    inherited.pop("COLUMNS", None)
    # no stack of this checkout: its secret files are not the test's
    own = {"BOUCHET_ENV_FILE": str(env_file), "HOME": str(tmp_path), "COMPOSE_PROJECT_NAME": TEST_PROJECT}
    return Bouchet(api, proxy, {**inherited, **own})


@pytest.fixture
def gateway(bouchet: Bouchet) -> FakeGateway:
    return bouchet.api.gateway
