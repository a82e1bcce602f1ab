"""The lines of a launch that is waited for."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from bouchet_cli.client.deployments import DeploymentInfo, JobInfo
from bouchet_cli.view.progress import launch_lines
from bouchet_cli.view.screen import cell_width

from tests.cli.samples import NOW

REASON = "it is next, as soon as nodes with enough free GPUs are there; sooner: another partition"
JOB = JobInfo(start_estimate=NOW + timedelta(hours=5, minutes=42), resources="scavenge_gpu, 1 x h200")
QUEUED = DeploymentInfo("id", "org/m", ("mine",), "queued", NOW - timedelta(seconds=33), NOW, reason=REASON, job=JOB)


@pytest.mark.parametrize("width", [40, 60, 100])
def test_launch_lines_have_the_estimate_first_and_the_whole_explanation_below(width: int) -> None:
    head, *below = (line.plain for line in launch_lines(QUEUED, NOW, width))
    assert head.startswith("mine queued 33s (starts in 5h42m)")
    assert " ".join(" ".join(below).split()) == REASON
    assert all(cell_width(line) <= width for line in (head, *below))


def test_launch_lines_without_explanation_are_one_line() -> None:
    assert len(launch_lines(replace(QUEUED, reason=""), NOW, 80)) == 1
