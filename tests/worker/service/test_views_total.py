"""From any stored record to a carried out plan: fields may be missing, or contradict each other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from bouchet_core.config.site import load_site
from bouchet_core.deployments import Deployment, Ending, Job, LaunchRequest, Phase, Placement, ServiceState
from bouchet_core.policy import Budget, BudgetUnit, Policy, Replicas, parse_hours
from bouchet_core.policy.budget import budget_uses
from bouchet_core.store.load import JobLoad, LoadReport
from bouchet_worker.service.carry_out import SUBMISSIONS, carry_out, tasks_of
from bouchet_worker.service.plan import plan
from bouchet_worker.service.views import Surroundings, limits_view, load_view, record_view
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 30, 14, 0, tzinfo=UTC)
SITE = load_site(Path(__file__).parents[3] / "sites" / "demo.yaml")
PLACEMENT = Placement(partition="gpu_h200", gpus=1, gpu_type="h200", cpus=2, memory_gib=6, walltime_s=3600)

moments = st.integers(-400_000, 400_000).map(lambda s: NOW + timedelta(seconds=s))
placements = st.sampled_from([PLACEMENT, PLACEMENT.model_copy(update={"partition": "gone", "gpus": 0})])
names = st.sampled_from(["bouchet-aa-1", "bouchet-aa-2", "bouchet-aa-3", "odd", "bouchet-aa-"])
jobs = st.builds(
    Job,
    name=names,
    slot=st.integers(0, 20),
    slurm_id=st.none() | st.integers(1, 9),
    phase=st.sampled_from([phase for phase in Phase if phase is not Phase.PARKED]),
    ending=st.none() | st.sampled_from(Ending),
    since=st.dictionaries(st.sampled_from(Phase), moments, max_size=4),
    times=st.dictionaries(
        st.sampled_from(["queue", "boot", "load", "ready", "smoke"]), st.floats(-10, 1e5), max_size=4
    ),
    placement=st.none() | placements,
    stop_requested_at=st.none() | moments,
    leaving_since=st.none() | moments,
    replaces=st.none() | names,
    begin_at=st.none() | moments,
    start_estimate=st.none() | moments,
    asked_walltime_s=st.none() | st.integers(0, 10_000),
    reason=st.sampled_from(["", "it failed"]),
)
policies = st.builds(
    Policy,
    keep=st.sampled_from(["off", "forever"]) | moments,
    on_demand=st.booleans(),
    replicas=st.sampled_from([Replicas(), Replicas(low=1, high=3)]),
    hours=st.none() | st.sampled_from([parse_hours(text, "Europe/Zurich") for text in ("daily 0-24", "sun 2-3")]),
    budget=st.none() | st.sampled_from([Budget(amount=0.01), Budget(amount=40, unit=BudgetUnit.CHARGE)]),
    begin=st.none() | moments,
    zone=st.sampled_from(["UTC", "America/New_York", "Moon/Base"]),
)
services = st.builds(
    ServiceState,
    changed_at=st.none() | moments,
    parked_at=st.none() | moments,
    paused=st.sampled_from(["", "3 starts failed"]),
    warned_at=st.none() | moments,
    used=st.dictionaries(st.sampled_from(["2026-11-29", "2026-11-30", "", "today"]), st.floats(-1, 1e6), max_size=2),
)


def make_records(identity: str) -> st.SearchStrategy[Deployment]:
    return st.builds(
        Deployment,
        id=st.just(identity),
        model=st.just("demo/scripted"),
        names=st.just((f"name-{identity}",)),
        request=st.just(LaunchRequest(model="demo/scripted")),
        phase=st.sampled_from([phase for phase in Phase if phase is not Phase.ENDED]),
        jobs=st.lists(jobs, max_size=4, unique_by=lambda job: job.name).map(tuple),
        policy=policies,
        service=services,
        stop_requested_at=st.none() | moments,
        created_at=moments,
        updated_at=moments,
    )


reports = st.none() | st.builds(
    LoadReport,
    at=moments,
    table_at=st.none() | moments,
    jobs=st.dictionaries(names, st.builds(JobLoad, open=st.integers(0, 2), last_end=st.none() | moments), max_size=3),
    held=st.dictionaries(st.sampled_from(["aa", "bb"]), st.integers(0, 2), max_size=2),
)


@given(make_records("aa"), make_records("bb"), placements, reports, st.none() | moments)
def test_any_record_is_planned_and_carried_out(
    record: Deployment, other: Deployment, placement: Placement, report: LoadReport | None, asked: datetime | None
) -> None:
    around = Surroundings(
        SITE, report, {} if asked is None else {"aa": asked}, {}, NOW, 8, NOW,
        budgets={"aa": budget_uses(record, [record, other], SITE, Budget(amount=1), NOW)},
    )  # fmt: skip
    actions = plan(
        record_view(record, placement, around),
        load_view(record, around),
        limits_view(record, placement, around, [other]),
        NOW,
    )
    new = carry_out(record, actions, 3, NOW)
    open_on = {name for name, load in report.jobs.items() if load.open} if report is not None else set[str]()
    before = {job.name: job for job in record.jobs}
    added = [job for job in new.jobs if job.name not in before]
    assert len(added) <= sum(action.kind in SUBMISSIONS for action in actions) <= 1
    for job in new.live_jobs:
        old = before.get(job.name)
        if old is not None and job.stop_requested_at is not None and old.stop_requested_at is None:
            assert job.name not in open_on, "an answer is cut"
    assert set(tasks_of(new)) <= {"submit", "cancel"}
    # what is stored can be read again
    assert Deployment.model_validate_json(new.model_dump_json()) == new
