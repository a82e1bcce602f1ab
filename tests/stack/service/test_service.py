"""A service in short: one model that is woken. Hand-overs take minutes each: hand_over.py is part of `make soak`."""

from __future__ import annotations

import pytest

from tests.stack.harness import LOCAL_SERVICES, Stack
from tests.stack.service.on_demand import check_on_demand

ZONE = "import zoneinfo; print(zoneinfo.ZoneInfo('Europe/Zurich').key)"


@pytest.mark.parametrize("service", [name for name in LOCAL_SERVICES if name not in ("redis", "gateway")])
def test_image_knows_the_time_zones(stack: Stack, service: str) -> None:
    """Hours and budgets follow the person's time zone, in the worker, the API and the proxy."""
    done = stack.on(service, ["python3", "-c", ZONE])
    assert (done.status, done.stdout.strip()) == (0, "Europe/Zurich"), done.output


def test_parked_model_is_listed_and_wakes_for_a_stream(stack: Stack, room: None) -> None:
    check_on_demand(stack, parks_again=False)
