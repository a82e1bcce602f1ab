"""The simulation: it repeats itself, counts rightly, and shows what the policy owes."""

from __future__ import annotations

import os
import random
import re
import shlex
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from bouchet_core.policy import Policy
from bouchet_worker.service.inputs import ActionKind

from tests.sim.__main__ import main
from tests.sim.people import DAY, day_of, life
from tests.sim.report import Row, better_in_both, measure
from tests.sim.strategies import ByHand, FixedChain, PlannedStrategy, strategies
from tests.sim.world import CAPACITY, Outcome, SimJob, Strategy, World, lognormal_waits, measured_waits

TEN_MINUTES = lognormal_waits(600, 1.0)


def run(strategy: Strategy, people: int = 1, days: int = 4, seed: int = 0) -> Outcome:
    """Simulate some days with a median queue of ten minutes."""
    return World(strategy, people, days, seed, TEN_MINUTES).run()


def row(strategy: Strategy, **options: int) -> Row:
    """Return the figures of one run."""
    return measure(strategy.name, [run(strategy, **options)])


def test_simulation_of_the_same_seed_repeats_itself() -> None:
    first, second = (row(strategies(1)[0], days=2) for _ in range(2))
    assert first == second
    assert first != row(strategies(1)[0], days=2, seed=1)


def test_simulation_counts_gpu_time_from_start_to_end() -> None:
    outcome = World(FixedChain(), 0, 1, 0, measured_waits([600.0])).run()
    # 10 min of queue, then one job after the other, each overlapping the next by its start
    assert outcome.gpu_s >= DAY - 600
    assert outcome.cut == 0 and outcome.waits == []
    assert all(start < end for start, _, end, _ in outcome.spans)


def test_simulation_by_hand_cuts_answers_and_ours_never_does() -> None:
    planned = World(PlannedStrategy("ours", Policy(on_demand=True)), 3, 4, 1, lambda rng: 300.0).run()
    by_hand = World(ByHand(), 3, 4, 1, lambda rng: 300.0).run()
    assert planned.cut == 0
    assert by_hand.cut > 0


def test_simulation_never_has_more_than_one_job_on_its_way() -> None:
    class Watched(PlannedStrategy):
        """Counts jobs that have not served yet."""

        most = 0

        def tick(self, world: World) -> None:
            super().tick(world)
            self.most = max(self.most, sum(job.ready is None for job in world.jobs))

    watched = Watched("ours", Policy(keep="forever"), idle_s=0.0)
    run(watched)
    assert watched.most == 1
    assert {action.kind for _, action in watched.log} == {ActionKind.SUBMIT, ActionKind.HAND_OVER, ActionKind.RETIRE}


@pytest.mark.slow
def test_simulation_of_hours_and_on_demand_reaches_its_figures() -> None:
    rows = [row(strategy, days=7) for strategy in strategies(1)]
    ours, always = rows[0], next(one for one in rows if one.name == "always on")
    assert ours.gpu_hours <= 0.4 * always.gpu_hours
    assert ours.waited_share <= 0.01
    assert ours.cut == 0
    assert [one.name for one in rows if better_in_both(one, ours)] == []


def test_people_work_in_stretches_of_the_day() -> None:
    rng = random.Random(1)
    for day in range(60):
        stretches = day_of(rng, day)
        assert all(day * DAY <= start < end for start, end in stretches)
        assert stretches == sorted(stretches)
    assert next(life(random.Random(1), 1)) is not None


def test_jobs_take_requests_up_to_their_capacity() -> None:
    class Idle(Strategy):
        """Does nothing."""

        def tick(self, world: World) -> None:
            return

    world = World(Idle(), 0, 1, 0, TEN_MINUTES)
    job = SimJob("job", 1, 3600.0, 0.0, start=0.0, ready=0.0)
    world.jobs.append(job)
    for _ in range(CAPACITY + 2):
        world._ask(0, 10.0)
    assert (len(job.streams), world.waiting) == (CAPACITY, 2)
    world.end_job(job)
    assert world.out.cut == CAPACITY


def test_command_prints_a_table_and_draws_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waits, picture = tmp_path / "waits", tmp_path / "sim.svg"
    waits.write_text("60\n120\n600\n")
    arguments = ["--people", "1", "--days", "1", "--only", "hand", "--waits", str(waits), "--svg", str(picture)]
    assert main(arguments) == 0
    assert "| by hand |" in capsys.readouterr().out
    assert ET.parse(picture).getroot().tag.endswith("svg")


def test_shown_pipeline_makes_waits_that_the_simulation_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs/simulation.md").read_text()
    pipeline, _, command = re.findall(r"```bash\n(.*?)```", page, re.S)[-1].strip().rpartition("\n")
    rows = ["2026-11-02T10:00:00|2026-11-02T10:05:00", "2026-11-02T11:00:00|Unknown", "2026-11-02T12:00:00|None"]
    sacct = tmp_path / "sacct"
    sacct.write_text("#!/bin/sh\n" + "".join(f"echo '{row}'\n" for row in [*rows, rows[0]]))
    sacct.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "USER": "ada", "TZ": "UTC"}
    subprocess.run(["bash", "-euo", "pipefail", "-c", pipeline], cwd=tmp_path, env=environment, timeout=60, check=True)
    assert (tmp_path / "waits.txt").read_text() == "300\n300\n"
    monkeypatch.chdir(tmp_path)
    program, flag, module, *arguments = shlex.split(command)
    assert (program, flag, module) == (".venv/bin/python", "-m", "tests.sim")
    assert main([*arguments, "--days", "1", "--only", "hand"]) == 0
    assert "| by hand |" in capsys.readouterr().out
