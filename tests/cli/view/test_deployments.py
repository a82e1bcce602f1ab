"""One deployment in detail."""

from __future__ import annotations

import pytest
from bouchet_cli.view.deployments import detail_lines, startup_lines

from tests.cli.samples import JOB, NOW, TIMES, deployment


@pytest.mark.parametrize("width", [40, 80, 200])
def test_startup_bar_is_as_long_as_its_share(width: int) -> None:
    title, *steps = [line.plain for line in startup_lines(TIMES, width)]
    assert "1m40s" in title
    bars = {line.split()[0]: line.count("█") for line in steps}
    assert list(bars) == ["queue", "image", "boot", "load", "compile"]
    assert bars["image"] == 0 and bars["compile"] == 1
    assert bars["boot"] == pytest.approx(2 * bars["queue"], abs=1)
    assert all(len(line) <= width for line in steps)
    assert bars["boot"] == max(bars.values())


def test_startup_without_times_is_empty() -> None:
    assert startup_lines({}, 80) == []
    assert len(startup_lines({"queue": 3.0}, 80)) == 2


@pytest.mark.parametrize("width", [40, 80, 1_000_000])
def test_detail_fits_and_has_all_facts(width: int) -> None:
    lines = [line.plain for line in detail_lines(deployment("a", jobs=[JOB]), width, NOW)]
    assert lines[0] == "bouchet-a  ready" and max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for fact in ("17 on node2, RUNNING", "the first that takes 1 GPU", "torch 2.13.0", "580.95.05", "in 50m", "64k"):
        assert fact in text
