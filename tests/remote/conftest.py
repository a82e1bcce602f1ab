"""A compute node whose job is killed after the test, and the modules of remote/ on sys.path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .compute_node import OLDEST, SCRIPTS, ComputeNode, make_compute_node, running

sys.path.append(str(SCRIPTS))


@pytest.fixture
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ComputeNode]:
    """Yield a node whose python3 is the oldest found, or the one that the test names (indirect parameter)."""
    with running(make_compute_node(tmp_path, str(getattr(request, "param", OLDEST))), start=False) as node:
        yield node
