"""`bouchet keep`, the policy options of `bouchet launch`, and how status shows them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bouchet_cli.commands import keep
from bouchet_cli.commands.keep import local_time_zone
from bouchet_cli.view.service import policy_note, policy_text, service_facts, successor_note
from bouchet_core.deployments import Phase, PlanDecision

from tests.cli.harness import ALIAS, QWEN, Bouchet
from tests.cli.samples import JOB, NOW, deployment


def test_launch_sends_the_policy_with_the_time_zone(bouchet: Bouchet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    options = ["--keep", "3d", "--hours", "mon-fri 08:30-18:00", "--budget", "40h/week", "--replicas", "1..3"]
    made = bouchet.store.get(bouchet.launch(QWEN, *options, "--on-demand", "--group", "big"))
    policy = made.request.policy
    assert policy is not None and policy.model_dump(exclude_none=True) == {
        "keep": "3d",
        "on_demand": True,
        "replicas": "1..3",
        "hours": "mon-fri 08:30-18:00",
        "budget": "40h/week",
        "exclusive_group": "big",
        "time_zone": "America/New_York",
    }


def test_launch_without_policy_options_sends_none(bouchet: Bouchet) -> None:
    assert bouchet.store.get(bouchet.launch(QWEN)).request.policy is None


def test_keep_changes_the_policy_and_prints_it(bouchet: Bouchet) -> None:
    identity = bouchet.launch(QWEN)
    done = bouchet("keep", ALIAS, "forever")
    assert done.status == 0 and "renewed until you end it" in done.out, done.err
    assert bouchet.store.get(identity).policy.keep == "forever"
    done = bouchet("keep", ALIAS, "off", "--on-demand")
    assert "on demand" in done.out
    policy = bouchet.store.get(identity).policy
    assert (policy.keep, policy.on_demand) == ("off", True)


def test_keep_without_a_time_resumes(bouchet: Bouchet) -> None:
    identity = bouchet.launch(QWEN, "--keep", "1d")
    bouchet.store.update(identity, lambda d: d.with_service(NOW, paused="3 starts failed"))
    assert bouchet("keep", ALIAS).status == 0
    assert bouchet.store.get(identity).service.paused == ""


@pytest.mark.parametrize(
    "arguments", [("soon",), ("2d", "--keep", "3d"), ("--hours", "never"), ("--budget", "0h/week")]
)
def test_keep_with_a_wrong_policy_is_refused_in_one_sentence(bouchet: Bouchet, arguments: tuple[str, ...]) -> None:
    bouchet.launch(QWEN)
    done = bouchet("keep", ALIAS, *arguments)
    assert done.status != 0 and len(done.err.strip().splitlines()) == 1


def test_status_shows_policy_and_decisions(bouchet: Bouchet) -> None:
    identity = bouchet.launch(QWEN, "--keep", "forever")
    entry = PlanDecision(at=NOW, action="submit", reason="it is kept until you end it")
    bouchet.store.update(identity, lambda d: d.with_decision(entry))
    done = bouchet("status", ALIAS)
    assert "renewed until you end it" in done.out and "submit: it is kept until you end it" in done.out


def job(phase: str, **fields: Any) -> dict[str, Any]:
    return {**JOB, "phase": phase, **fields}


def test_status_shows_the_successor_and_its_start() -> None:
    starts = (NOW + timedelta(minutes=20)).isoformat()
    jobs = [
        job("queued", slurm_id=18, replaces="job-1", start_estimate=starts, since={}),
        job("ready", name="job-1"),
    ]
    found = deployment(
        "x", jobs=jobs, policy={"keep": "forever"}, service={"waits": "the successor starts about 12:20"}
    )
    assert successor_note(found, NOW).startswith("successor job 18 queued, starts ")
    facts = dict(service_facts(found, NOW))
    assert facts["successor"].startswith("job 18 queued") and facts["next"] == "the successor starts about 12:20"


def test_status_of_a_paused_deployment_says_why() -> None:
    found = deployment("x", "parked", jobs=[], policy={"on_demand": True}, service={"paused": "3 starts failed"})
    assert dict(service_facts(found, NOW))["paused"] == "3 starts failed"


def test_list_says_what_follows_the_end_of_a_job(bouchet: Bouchet) -> None:
    bouchet.launch(QWEN, "--keep", "forever")
    assert "renewed until you end it" in bouchet("status").out
    found = deployment("x", policy={"keep": "forever"}, service={"paused": "3 starts in a row failed"})
    assert policy_note(found) == "not renewed: 3 starts in a row failed"
    both = {"on_demand": True, "hours": {"windows": []}}
    assert policy_note(deployment("x", policy=both)) == "on demand; in its hours"
    assert policy_note(deployment("x", policy={})) == ""


def test_policy_text_names_every_part() -> None:
    text = policy_text(
        {
            "keep": datetime(2026, 12, 1, 18, tzinfo=UTC).isoformat(),
            "on_demand": True,
            "replicas": {"low": 1, "high": 3},
            "hours": {"windows": [{"days": [0, 4], "start": 510, "end": 1080}], "zone": "UTC"},
            "budget": {"amount": 40.0, "unit": "gpu_hours", "period": "week"},
            "begin": NOW.isoformat(),
            "exclusive_group": "big",
        }
    )
    for part in ("renewed until", "on demand", "1 to 3 replicas", "mon,fri 08:30-18:00", "40 GPU hours a week", "big"):
        assert part in text
    assert "walltime" in policy_text({})


def test_local_time_zone_is_the_one_of_the_environment_or_the_computer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TZ", ":Europe/Berlin")
    assert local_time_zone() == "Europe/Berlin"
    monkeypatch.delenv("TZ")
    zone = tmp_path / "zoneinfo" / "America" / "New_York"
    zone.parent.mkdir(parents=True)
    zone.touch()
    link = tmp_path / "localtime"
    link.symlink_to(zone)
    monkeypatch.setattr(keep, "LOCAL_TIME", link)
    assert local_time_zone() == "America/New_York"
    monkeypatch.setattr(keep, "LOCAL_TIME", tmp_path / "missing")
    assert local_time_zone() == "UTC"


def test_parked_model_is_used_because_a_request_starts_it(bouchet: Bouchet) -> None:
    identity = bouchet.launch(QWEN, "--on-demand")
    bouchet.store.update(identity, lambda d: d.model_copy(update={"phase": Phase.PARKED, "version": d.version + 1}))
    done = bouchet("env")
    assert done.status == 0 and f"ANTHROPIC_MODEL={ALIAS}" in done.out.replace("'", ""), done.err
    assert bouchet("env", "--for", "codex", "--model", ALIAS).status == 0
