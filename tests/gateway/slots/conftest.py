"""Tests of the slots run with and without the SSH fast path."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def ssh_changes(fast_and_plain: dict[str, Any]) -> dict[str, Any]:
    return fast_and_plain
