"""/v1/deployments."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
from bouchet_api.dependencies import AppState
from bouchet_core.deployments import Ending, Job, Phase
from bouchet_core.store import Store

from tests.fakes.running_api import queued_tasks

QWEN = "Qwen/Qwen3-32B"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def end(store: Store, identity: str) -> None:
    store.update(identity, lambda d: d.moved(Phase.ENDED, NOW, reason="done", ending=Ending.COMPLETED))


async def test_launch_is_recorded_and_enqueued(api: httpx.AsyncClient, state: AppState) -> None:
    answer = await api.post("/v1/deployments", json={"model": "bouchet-qwen3-32b", "gpus": 1, "time": "06:00:00"})
    assert answer.status_code == 202
    made = answer.json()
    assert answer.headers["location"] == f"/v1/deployments/{made['id']}"
    assert made["names"] == ["bouchet-qwen3-32b", QWEN]
    assert made["phase"] == "requested"
    assert made["traits"]["thinking"] == "off"
    assert len(made["id"]) == 12
    assert made["id"] == made["id"].lower()
    assert state.store.get(made["id"]).request.gpus == 1
    assert queued_tasks(state.store) == [("submit", made["id"])]
    assert (await api.get(answer.headers["location"])).json() == made


async def test_deployment_is_found_by_each_of_its_names(api: httpx.AsyncClient) -> None:
    made = (await api.post("/v1/deployments", json={"model": QWEN})).json()
    for name in ("bouchet-qwen3-32b", QWEN, QWEN.replace("/", "%2F")):
        assert (await api.get(f"/v1/deployments/{name}")).json() == made


async def test_unknown_model_is_404_with_similar_names(api: httpx.AsyncClient, state: AppState) -> None:
    answer = await api.post("/v1/deployments", json={"model": "Qwen/Qwen3-23B"})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["kind"] == "unknown_model"
    assert QWEN in answer.json()["near"]
    assert state.store.page() == []


async def test_name_is_taken_until_its_deployment_ends(api: httpx.AsyncClient, state: AppState) -> None:
    first = (await api.post("/v1/deployments", json={"model": QWEN})).json()
    second = await api.post("/v1/deployments", json={"model": QWEN})
    assert second.status_code == 409
    assert second.json()["kind"] == "name_taken"
    assert first["id"] in second.json()["detail"]
    assert len(queued_tasks(state.store)) == 1
    end(state.store, first["id"])
    assert (await api.post("/v1/deployments", json={"model": QWEN})).status_code == 202


async def test_second_deployment_of_a_model_needs_its_own_name(api: httpx.AsyncClient) -> None:
    await api.post("/v1/deployments", json={"model": QWEN})
    second = await api.post("/v1/deployments", json={"model": QWEN, "name": "second"})
    assert second.status_code == 202
    assert second.json()["names"] == ["second"]
    third = await api.post("/v1/deployments", json={"model": QWEN, "name": "second"})
    assert third.status_code == 409


async def test_repeated_idempotency_key_makes_one_deployment(api: httpx.AsyncClient, state: AppState) -> None:
    headers = {"Idempotency-Key": "once-1"}
    first = await api.post("/v1/deployments", json={"model": QWEN}, headers=headers)
    again = await api.post("/v1/deployments", json={"model": QWEN}, headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert len(state.store.page()) == 1
    # enqueued again in case the first task was lost; the worker submits once
    assert set(queued_tasks(state.store)) == {("submit", first.json()["id"])}
    other = await api.post("/v1/deployments", json={"model": QWEN, "gpus": 2}, headers=headers)
    assert other.status_code == 422
    assert other.json()["kind"] == "idempotency_key_reused"


async def test_cancel_is_enqueued_and_repeatable(api: httpx.AsyncClient, state: AppState) -> None:
    made = (await api.post("/v1/deployments", json={"model": QWEN})).json()
    first = await api.delete(f"/v1/deployments/{made['id']}")
    again = await api.delete("/v1/deployments/bouchet-qwen3-32b")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["stop_requested_at"] == again.json()["stop_requested_at"] is not None
    assert queued_tasks(state.store)[1:] == [("cancel", made["id"])] * 2
    end(state.store, made["id"])
    gone = await api.delete(f"/v1/deployments/{made['id']}")
    assert (gone.status_code, gone.json()["phase"]) == (200, "ended")
    assert len(queued_tasks(state.store)) == 3


async def test_unknown_deployment_is_404(api: httpx.AsyncClient) -> None:
    for method in ("GET", "DELETE"):
        answer = await api.request(method, "/v1/deployments/nosuch")
        assert (answer.status_code, answer.json()["kind"]) == (404, "unknown_deployment")


async def test_list_is_paged_newest_first(api: httpx.AsyncClient, state: AppState) -> None:
    ids = []
    for name in ("one", "two", "three"):
        made = await api.post("/v1/deployments", json={"model": QWEN, "name": name})
        ids.append(made.json()["id"])
    end(state.store, ids[1])
    page = (await api.get("/v1/deployments", params={"limit": 2})).json()
    assert [d["id"] for d in page["deployments"]] == [ids[2], ids[1]]
    rest = (await api.get("/v1/deployments", params={"limit": 2, "offset": page["next_offset"]})).json()
    assert ([d["id"] for d in rest["deployments"]], rest["next_offset"]) == ([ids[0]], None)
    live = (await api.get("/v1/deployments", params={"live": True})).json()
    assert [d["id"] for d in live["deployments"]] == [ids[2], ids[0]]


async def test_preview_of_a_taken_name_is_refused_like_the_launch(api: httpx.AsyncClient) -> None:
    made = (await api.post("/v1/deployments", json={"model": QWEN})).json()
    answer = await api.post("/v1/deployments/preview", json={"model": QWEN})
    assert (answer.status_code, answer.json()["kind"]) == (409, "name_taken")
    assert made["id"] in answer.json()["detail"]


async def test_launch_with_a_policy_stores_it(api: httpx.AsyncClient, state: AppState) -> None:
    policy = {"keep": "3d", "hours": "mon-fri 08:30-18:00", "budget": "40h/week", "time_zone": "America/New_York"}
    made = (await api.post("/v1/deployments", json={"model": QWEN, "policy": policy})).json()
    stored = state.store.get(made["id"])
    assert stored.request.policy is not None and stored.request.policy.keep == "3d"
    assert stored.policy.is_managed and stored.policy.zone == "America/New_York"
    assert made["policy"]["budget"] == {"amount": 40.0, "unit": "gpu_hours", "period": "week"}


async def test_policy_that_cannot_be_read_is_refused_with_an_example(api: httpx.AsyncClient) -> None:
    for policy, example in (
        ({"keep": "soon"}, "3d"),
        ({"replicas": "3..1", "keep": "1d"}, "1..3"),
        ({"budget": "0h/week"}, "40h/week"),
        ({"until": "2020-01-01 10:00"}, "past"),
        ({"keep": "1d", "until": "18:00"}, "one of them"),
    ):
        answer = await api.post("/v1/deployments", json={"model": QWEN, "policy": policy})
        assert answer.status_code == 422 and example in answer.json()["detail"], answer.text


async def test_policy_that_can_never_be_followed_is_refused_with_what_works(
    api: httpx.AsyncClient, state: AppState
) -> None:
    for policy, part in (
        ({"keep": "forever", "replicas": "16"}, "what would work"),
        ({"replicas": "1..3"}, "add --keep"),
        ({"keep": "3d", "budget": "0.01h/week"}, "allow at least"),
        ({"keep": "forever", "on_demand": True}, "contradict"),
    ):
        answer = await api.post("/v1/deployments", json={"model": QWEN, "policy": policy})
        assert answer.status_code == 422
        assert part in answer.json()["detail"]
    made = (await api.post("/v1/deployments", json={"model": QWEN, "policy": {"on_demand": True}})).json()
    answer = await api.patch(f"/v1/deployments/{made['id']}", json={"budget": "0.01h/week"})
    assert answer.status_code == 422 and "allow at least" in answer.json()["detail"]
    assert state.store.get(made["id"]).policy.budget is None


async def test_patch_changes_the_policy_and_resumes(api: httpx.AsyncClient, state: AppState) -> None:
    made = (await api.post("/v1/deployments", json={"model": QWEN, "policy": {"on_demand": True}})).json()
    state.store.update(made["id"], lambda d: d.with_service(NOW, paused="3 starts failed").settled())
    answer = await api.patch(f"/v1/deployments/{made['id']}", json={"keep": "2d"})
    assert answer.status_code == 200 and answer.json()["service"]["paused"] == ""
    policy = state.store.get(made["id"]).policy
    assert policy.renews and policy.on_demand
    answer = await api.patch(f"/v1/deployments/{made['id']}", json={"keep": "off", "on_demand": False})
    assert answer.json()["phase"] == "ended", "it has no job, and nothing submits one any more"
    assert (await api.patch(f"/v1/deployments/{made['id']}", json={"keep": "2d"})).status_code == 422


async def test_patch_of_a_running_deployment_keeps_its_job(api: httpx.AsyncClient, state: AppState) -> None:
    made = (await api.post("/v1/deployments", json={"model": QWEN})).json()
    job = Job(name=f"bouchet-{made['id']}-1", slot=0, slurm_id=7)
    state.store.update(made["id"], lambda d: d.with_job(job, NOW).moved(Phase.SUBMITTING, NOW).moved(Phase.QUEUED, NOW))
    answer = await api.patch(f"/v1/deployments/{made['id']}", json={"keep": "forever"})
    assert answer.json()["phase"] == "queued" and answer.json()["policy"]["keep"] == "forever"
    successor = Job(name=f"bouchet-{made['id']}-2", slot=1, phase=Phase.QUEUED, replaces=job.name)
    state.store.update(made["id"], lambda d: d.with_job(successor, NOW))
    await api.patch(f"/v1/deployments/{made['id']}", json={"keep": "off"})
    stopped = {one.name[-1]: one.stop_requested_at is not None for one in state.store.get(made["id"]).jobs}
    assert stopped == {"1": False, "2": True}, "the successor is not needed any more"


async def kept(api: httpx.AsyncClient, state: AppState, *jobs: Job, **policy: object) -> str:
    """Launch with a policy, and put these jobs into the record."""
    answer = await api.post("/v1/deployments", json={"model": QWEN, "policy": {"keep": "forever", **policy}})
    identity = str(answer.json()["id"])
    for job in jobs:
        state.store.update(identity, lambda d, job=job: d.with_job(job, NOW).settled())  # type: ignore[misc]
    return identity


async def test_patch_off_during_a_hand_over_keeps_the_job_that_clients_wait_for(
    api: httpx.AsyncClient, state: AppState
) -> None:
    leaving = Job(name="a-1", slot=0, slurm_id=7, phase=Phase.READY, leaving_since=NOW)
    successor = Job(name="a-2", slot=1, slurm_id=8, phase=Phase.STARTING, replaces="a-1")
    identity = await kept(api, state, leaving, successor)
    await api.patch(f"/v1/deployments/{identity}", json={"keep": "off"})
    assert [job.stop_requested_at for job in state.store.get(identity).live_jobs] == [None, None]
    # the old one has ended
    state.store.update(identity, lambda d: d.with_job(leaving.model_copy(update={"phase": Phase.ENDED}), NOW))
    await api.patch(f"/v1/deployments/{identity}", json={"keep": "1d"})
    await api.patch(f"/v1/deployments/{identity}", json={"keep": "off"})
    assert [job.stop_requested_at for job in state.store.get(identity).live_jobs] == [None]


async def test_patch_off_removes_what_makes_sense_for_renewed_jobs_alone(
    api: httpx.AsyncClient, state: AppState
) -> None:
    job = Job(name="a-1", slot=0, slurm_id=7, phase=Phase.READY)
    identity = await kept(api, state, job, replicas="1..2", begin="3h")
    answer = await api.patch(f"/v1/deployments/{identity}", json={"keep": "off"})
    assert answer.status_code == 200, answer.text
    policy = state.store.get(identity).policy
    assert (policy.is_managed, policy.replicas.high, policy.begin) == (False, 1, None)
    # one that is asked for is still refused
    answer = await api.patch(f"/v1/deployments/{identity}", json={"replicas": "1..2"})
    assert answer.status_code == 422 and "add --keep" in answer.json()["detail"]


async def test_patch_of_a_policy_whose_keep_is_over_changes_the_rest(api: httpx.AsyncClient, state: AppState) -> None:
    identity = await kept(api, state, keep="2d", on_demand=True)
    state.store.update(
        identity, lambda d: d.model_copy(update={"policy": d.policy.model_copy(update={"keep": NOW}), "version": 9})
    )
    answer = await api.patch(f"/v1/deployments/{identity}", json={"budget": "40h/week"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["policy"]["keep"] == "off" and answer.json()["policy"]["budget"]["amount"] == 40


async def test_odd_times_and_zones_are_refused_and_hours_without_a_gap_are_taken(api: httpx.AsyncClient) -> None:
    for policy in (
        {"keep": "1d", "time_zone": "Moon/Base"},
        {"on_demand": True, "time_zone": "America"},
        {"until": "9999-12-31 23:59", "time_zone": "America/New_York"},
        {"until": "0001-01-01 00:00", "time_zone": "Asia/Tokyo"},
        {"keep": "1d", "begin": "9999-12-31 23:59", "time_zone": "America/New_York"},
    ):
        answer = await api.post("/v1/deployments", json={"model": QWEN, "policy": policy})
        assert (answer.status_code, answer.json()["kind"]) == (422, "launch_refused"), answer.text
    for number, hours in enumerate(("daily 0-24", "sun 2-3")):
        policy = {"hours": hours, "time_zone": "America/New_York"}
        answer = await api.post("/v1/deployments", json={"model": QWEN, "name": f"n{number}", "policy": policy})
        assert answer.status_code == 202, answer.text
