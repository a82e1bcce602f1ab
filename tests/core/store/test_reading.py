"""Stored values of other versions: unknown fields are ignored, unreadable ones left out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from bouchet_core.batch_jobs import BatchJobState, DiskListing, DiskModel, Download
from bouchet_core.deployments import Deployment, Job, LaunchRequest, Orphan, Phase, Placement
from bouchet_core.errors import NameTakenError, UnreadableRecordError
from bouchet_core.images import ImageJob
from bouchet_core.keys import ApiKey, sha256_of
from bouchet_core.provenance import LaunchPins, SmokeTest, Software, Weights
from bouchet_core.store import FIRST_EVENT, Store
from bouchet_core.tunnel import TunnelEvent, TunnelState

from tests.conftest import RedisServer

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PREFIX = "bouchet:"
# fields whose keys are data
MAPPINGS = ("since", "times", "entry", "environment", "models", "used")


@pytest.fixture
def raw(redis_server: RedisServer) -> redis.Redis:
    return redis.Redis(port=redis_server.port, password=redis_server.password, decode_responses=True)


def deployment(identity: str = "aa", **fields: Any) -> Deployment:
    weights = Weights(digest="d", how="hub", files=1, bytes=2)
    job = Job(
        name=f"bouchet-{identity}-1",
        slot=0,
        slurm_id=7,
        node="node1",
        port=20_001,
        phase=Phase.READY,
        placement=Placement(partition="gpu", gpus=1, gpu_type="h200", nodes=1, cpus=8, memory_gib=64, walltime_s=60),
        software=Software(),
        weights=weights,
        smoke=SmokeTest(),
    )
    made: dict[str, Any] = {
        "id": identity,
        "model": "demo/scripted",
        "names": (f"bouchet-{identity}",),
        "request": LaunchRequest(model="demo/scripted"),
        "pins": LaunchPins(deployment="zz", image="cpu", image_sha256="ab", vllm="0.32.0", weights=weights),
        "phase": Phase.READY,
        "jobs": (job,),
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Deployment(**{**made, **fields})


def with_unknown_fields(value: Any) -> Any:
    """Return the JSON value with a new field in every object."""
    if isinstance(value, list):
        return [with_unknown_fields(one) for one in value]
    if isinstance(value, dict):
        fields = {name: one if name in MAPPINGS else with_unknown_fields(one) for name, one in value.items()}
        return {"new_in_a_later_version": {"x": 1}, **fields}
    return value


def later(body: str) -> str:
    return json.dumps(with_unknown_fields(json.loads(body)))


def changed_hash(raw: redis.Redis, key: str, field: str, change: Callable[[str], str]) -> None:
    raw.hset(key, field, change(str(raw.hget(key, field))))


def changed_string(raw: redis.Redis, key: str, change: Callable[[str], str]) -> None:
    raw.set(key, change(str(raw.get(key))))


def test_deployment_of_a_later_version_is_read(store: Store, raw: redis.Redis) -> None:
    record = store.create(deployment())
    changed_hash(raw, f"{PREFIX}deployment:aa", "body", later)
    assert store.get("aa") == record
    assert store.live() == store.page() == [record]


@pytest.mark.parametrize(
    "kept",
    [("id", "model", "names", "request", "created_at", "updated_at"), ("jobs",), ("phase", "version")],
)
def test_deployment_without_newer_fields_is_read(store: Store, raw: redis.Redis, kept: tuple[str, ...]) -> None:
    store.create(deployment())
    required = ("id", "model", "names", "request", "created_at", "updated_at")

    def older(body: str) -> str:
        fields = {name: value for name, value in json.loads(body).items() if name in (*required, *kept)}
        for job in fields.get("jobs", []):
            for name in [name for name in job if name not in ("name", "slot")]:
                del job[name]
        return json.dumps(fields)

    changed_hash(raw, f"{PREFIX}deployment:aa", "body", older)
    read = store.get("aa")
    assert (read.id, read.names, read.pins, read.stop_requested_at) == ("aa", ("bouchet-aa",), None, None)


def test_slot_target_event_and_change_of_later_versions_are_read(store: Store, raw: redis.Redis) -> None:
    record = store.create(deployment())
    store.save(record.model_copy(update={"version": 1}))
    changed_hash(raw, f"{PREFIX}targets", "0", later)
    target = store.slot_target(0)
    assert target is not None and (target.node, target.port) == ("node1", 20_001)
    event = {"deployment": "aa", "phase": "ready", "at": NOW.isoformat(), "new_in_a_later_version": "1"}
    raw.xadd(f"{PREFIX}events", event)  # type: ignore[arg-type]
    assert [one.phase for one in store.events(FIRST_EVENT)] == [Phase.READY] * 3
    store.tunnel.append(TunnelEvent(state=TunnelState.UP, host="h", at=NOW))
    raw.xadd(f"{PREFIX}tunnel", {"body": later('{"state":"down","host":"h","at":"2026-11-22T12:00:00Z"}')})
    assert [event.state for _, event in store.tunnel.events("0-0")] == [TunnelState.UP, TunnelState.DOWN]


def test_batch_jobs_of_other_versions_are_read(store: Store, raw: redis.Redis) -> None:
    download = store.downloads.create(Download(id="d1", model="a/b", created_at=NOW, updated_at=NOW))
    image = store.images.create(ImageJob(id="i1", pin="cpu-0.32.0", created_at=NOW, updated_at=NOW))
    for key in ("download:d1", "image:i1"):
        changed_hash(raw, PREFIX + key, "body", later)
    assert (store.downloads.get("d1"), store.images.live()) == (download, [image])
    required = ("id", "model", "pin", "created_at", "updated_at")
    for key in ("download:d1", "image:i1"):
        older = lambda body: json.dumps({name: one for name, one in json.loads(body).items() if name in required})  # noqa: E731
        changed_hash(raw, PREFIX + key, "body", older)
    assert (store.downloads.live(), store.images.get("i1")) == ([download], image)
    raw.xadd(f"{PREFIX}download-events", {"download": "d1", "body": later(download.model_dump_json())})
    raw.xadd(f"{PREFIX}download-events", {"download": "d1", "body": "{}"})
    assert [event.batch_job.state for event in store.downloads.events("0-0", "d1")] == [BatchJobState.QUEUED] * 2


def test_key_listing_orphans_and_outage_of_other_versions_are_read(store: Store, raw: redis.Redis) -> None:
    key = ApiKey(name="bob", sha256=sha256_of("x"), created_at=NOW)
    store.api_keys.add(key)
    changed_hash(raw, f"{PREFIX}access:keys", "bob", later)
    assert store.api_keys.all() == [key]
    changed_hash(
        raw, f"{PREFIX}access:keys", "bob", lambda _: json.dumps({"name": "bob", "sha256": key.sha256, "created_at": 0})
    )
    assert [one.name for one in store.api_keys.all()] == ["bob"]
    store.downloads.keep_disk(DiskListing(models={"a/b": DiskModel(state="ready")}, listed_at=NOW))
    changed_string(raw, f"{PREFIX}disk", lambda body: body.replace('"state"', '"later":1,"state"'))
    listing = store.downloads.disk()
    assert listing is not None and listing.of("a/b").state == "ready"
    orphan = Orphan(slurm_id=7, name="bouchet-x-1")
    store.orphans.keep([orphan])
    changed_string(raw, f"{PREFIX}orphans", later)
    assert store.orphans.seen() == (orphan,)
    store.outage.record("squeue", NOW)
    changed_string(raw, f"{PREFIX}outage", later)
    outage = store.outage.current()
    assert outage is not None and outage.detail == "squeue"


def test_unreadable_deployment_is_left_out_and_keeps_id_names_and_slot(
    store: Store, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    # logged once per process and id, so no other test uses this id
    store.create(deployment("only-here"))
    store.create(deployment("bb"))
    slot = store.take_slot("only-here", "job", 4)
    changed_hash(
        raw, f"{PREFIX}deployment:only-here", "body", lambda body: body.replace('"phase":"ready"', '"phase":"asleep"')
    )
    with caplog.at_level(logging.ERROR):
        assert [one.id for one in store.live()] == [one.id for one in store.page()] == ["bb"]
        store.live()
    assert [record.message for record in caplog.records if "deployment only-here" in record.message][1:] == []
    assert "phase" in caplog.text
    with pytest.raises(UnreadableRecordError, match="phase"):
        store.get("bouchet-only-here")
    with pytest.raises(NameTakenError):
        store.create(deployment("cc", names=("bouchet-only-here",)))
    assert store.take_slot("bb", "job", 4) != slot == store.take_slot("only-here", "job", 4)
    assert [(one.kind, one.id) for one in store.all_unreadable()] == [("deployment", "only-here")]
    assert [one.id for one in store.unreadable(live=True)] == ["only-here"]


def test_unreadable_key_is_left_out_and_can_be_revoked(store: Store, raw: redis.Redis) -> None:
    store.api_keys.add(ApiKey(name="alice", sha256=sha256_of("a"), created_at=NOW))
    store.api_keys.add(ApiKey(name="bob", sha256=sha256_of("b"), created_at=NOW))
    changed_hash(raw, f"{PREFIX}access:keys", "bob", lambda body: body.replace('"sha256"', '"sha512"'))
    assert [key.name for key in store.api_keys.all()] == ["alice"]
    assert [(one.kind, one.id) for one in store.all_unreadable()] == [("key", "bob")]
    assert store.api_keys.revoke("bob") is None
    assert store.all_unreadable() == []


@pytest.mark.parametrize("body", ["not json", "[]", "{}", "null"])
def test_unreadable_values_of_the_cluster_are_none(store: Store, raw: redis.Redis, body: str) -> None:
    for key in ("disk", "outage"):
        raw.set(PREFIX + key, body)
    raw.set(f"{PREFIX}orphans", "{}" if body == "[]" else body)
    raw.hset(f"{PREFIX}targets", "0", body)
    raw.xadd(f"{PREFIX}tunnel", {"body": body})
    found = (store.downloads.disk(), store.outage.current(), store.orphans.seen(), store.slot_target(0))
    assert found == (None, None, (), None)
    assert store.tunnel.events("0-0") == []
