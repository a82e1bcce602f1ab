"""Fixtures: worker and proxy at work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bouchet_core.store import Store

from tests.conftest import RedisServer
from tests.service.running import Both, running_service


@pytest.fixture
def both(store: Store, redis_server: RedisServer, tmp_path: Path) -> Iterator[Both]:
    """Run a worker's loop and a proxy."""
    with running_service(store, redis_server, tmp_path) as both:
        yield both
