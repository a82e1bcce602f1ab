"""Deployments: records, slots and events.

Keys (all under `bouchet:`):
    deployment:<id>   hash   version, body (the record as JSON)
    all               zset   ids by creation time
    live              set    ids of deployments that have not ended
    ended             zset   ids of deployments by the time of their end, newest ENDED_KEPT
    names             hash   every name of a live deployment -> its id
    slots             hash   slot -> `<id>/<job name>` of the job that holds it; `<id>` alone in older records
    targets           hash   slot -> signed SlotTarget as JSON
    events            stream one entry a change, newest EVENTS_KEPT
    once:<key>        string id made for an idempotency key, ONCE_TTL_S
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from bouchet_core.deployments import Deployment, DeploymentEvent, Job, Phase
from bouchet_core.errors import NameTakenError, NoFreeSlotError, UnknownDeploymentError
from bouchet_core.tunnel import SlotTarget, TargetSigner

from .client import PREFIX, evaluate, mapped, stream_entries
from .cluster import TUNNEL_EVENTS
from .queries import Query, ask
from .reading import read_or_skip
from .records import HeldSlot, RecordKeys, RecordStore

EVENTS_KEPT = 10_000
ONCE_TTL_S = 24 * 3600
FIRST_EVENT = "0-0"
ENDED_KEPT = 200

_EVENTS = PREFIX + "events"
_STREAMS = (_EVENTS, TUNNEL_EVENTS)

# KEYS: slots   ARGV: owner count
_TAKE_SLOT = """
for n = 0, ARGV[2] - 1 do
  local owner = redis.call('HGET', KEYS[1], n)
  if owner == ARGV[1] then return n end
end
for n = 0, ARGV[2] - 1 do
  if redis.call('HSETNX', KEYS[1], n, ARGV[1]) == 1 then return n end
end
return -1
"""

# KEYS: slots targets   ARGV: slot owner
_RELEASE_SLOT = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
"""

# Of an owner that never got a record: KEYS: slots targets record   ARGV: slot owner
_RELEASE_LOST_SLOT = """
if redis.call('EXISTS', KEYS[3]) == 1 or redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
"""

# KEYS: record targets   ARGV: version slot target
_RENEW_TARGET = """
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
"""


class DeploymentStore(RecordStore[Deployment]):
    """All deployments of one installation. Methods raise RecordError subclasses or StoreUnavailableError.

    Only a store with a `signer` (the worker's) writes where slots lead; every store removes what leads nowhere.
    """

    signer: TargetSigner | None = None
    kind = "deployment"
    keys = RecordKeys(
        record=PREFIX + "deployment:",
        all=PREFIX + "all",
        live=PREFIX + "live",
        ended=PREFIX + "ended",
        owners=PREFIX + "names",
        slots=PREFIX + "slots",
        targets=PREFIX + "targets",
        events=_EVENTS,
    )
    record_type = Deployment
    events_kept = EVENTS_KEPT
    ended_kept = ENDED_KEPT

    def event_of(self, record: Deployment) -> Mapping[str, str]:
        """Return the fields of a DeploymentEvent but its id."""
        return {
            "deployment": record.id,
            "phase": record.phase,
            "ending": record.ending or "",
            "reason": record.reason,
            "at": record.updated_at.isoformat(),
        }

    def names_of(self, record: Deployment) -> Sequence[str]:
        """Return every name that it is served under."""
        return record.names

    def unknown(self, name: str) -> UnknownDeploymentError:
        """Return the error for an unknown deployment."""
        return UnknownDeploymentError(name)

    def targets_of(self, record: Deployment) -> Sequence[HeldSlot]:
        """Return the signed SlotTarget of every job that listens, as JSON, if this store can sign."""
        found = []
        for job in record.jobs:
            target, owner = _target_of(record, job), slot_owner(record.id, job.name)
            if target is None:
                found.append(HeldSlot(job.slot, "", owner, is_released=not job.is_live))
            elif self.signer is not None:
                # defaults are left out, so that equal targets are equal texts
                signed = self.signer.signed(job.slot, target).model_dump_json(exclude_defaults=True)
                found.append(HeldSlot(job.slot, signed, owner))
        return found

    def targets_query(self) -> Query[Mapping[str, str]]:
        """Return the query for the stored targets by slot, as `renew_targets` takes them."""
        return Query([("HGETALL", self.keys.targets)], lambda answers: answers[0])

    def renew_targets(self, records: Sequence[Deployment], stored: Mapping[str, str]) -> None:
        """Write the targets of these records where the store has others: forged ones, or an older version's."""
        for record in records:
            for held in self.targets_of(record):
                if held.target and stored.get(str(held.slot)) != held.target:
                    keys = [self._key(record.id), self.keys.targets]
                    evaluate(self._redis, _RENEW_TARGET, keys, [record.version, held.slot, held.target])

    def create(self, deployment: Deployment, once: str | None = None) -> Deployment:
        """Store a new record and take its names, or raise NameTakenError.

        once: an idempotency key. A record made earlier for the same key, or of the same id, is returned instead.
        """
        answer = self._create(deployment, f"{PREFIX}once:{once}" if once else "", ONCE_TTL_S)
        if answer[0] == "taken":
            raise NameTakenError(answer[1], answer[2])
        return self.get(answer[1]) if answer[0] == "made" else deployment

    def ended_since(self, moment: datetime) -> list[Deployment]:
        """Return the deployments that ended after that moment, the last to end first; at most ENDED_KEPT."""
        return self.read_records(ask(self._redis, self.ended_query(moment)))

    def ended_query(self, moment: datetime) -> Query[list[str]]:
        """Return the query for their ids."""
        command = ("ZREVRANGEBYSCORE", self.keys.ended, "+inf", moment.timestamp())
        return Query([command], lambda answers: list(answers[0]))

    def take_slot(self, deployment: str, job_name: str, count: int) -> int:
        """Return the slot of that job, taking the lowest free one; NoFreeSlotError when all `count` are taken."""
        owner = slot_owner(deployment, job_name)
        slot = int(evaluate(self._redis, _TAKE_SLOT, [self.keys.slots], [owner, count]))
        if slot < 0:
            raise NoFreeSlotError(count)
        return slot

    def lead_slot(self, slot: int, target: SlotTarget) -> None:
        """Write where a slot leads before there is a record; only with a signer."""
        if self.signer is not None:
            signed = self.signer.signed(slot, target).model_dump_json(exclude_defaults=True)
            with mapped():
                self._redis.hset(self.keys.targets, str(slot), signed)

    def release_slot(self, slot: int, owner: str) -> None:
        """Free a slot that this owner took without a record, and forget where it leads."""
        evaluate(self._redis, _RELEASE_SLOT, [self.keys.slots, self.keys.targets], [slot, owner])

    def slot_owners(self) -> dict[int, str]:
        """Return every slot that is taken, and its owner."""
        with mapped():
            found = cast("dict[str, str]", self._redis.hgetall(self.keys.slots))
        return {int(slot): owner for slot, owner in found.items()}

    def release_lost_slot(self, slot: int, owner: str) -> bool:
        """Free a slot whose owner has no record, readable or not; return whether it was one."""
        keys = [self.keys.slots, self.keys.targets, self._key(deployment_of(owner))]
        return bool(evaluate(self._redis, _RELEASE_LOST_SLOT, keys, [slot, owner]))

    def slot_target(self, slot: int) -> SlotTarget | None:
        """Return where that slot leads now, None when nothing listens behind it or its target cannot be read."""
        with mapped():
            body = self._redis.hget(self.keys.targets, str(slot))
        return read_or_skip(SlotTarget, "slot", str(slot), cast(str, body)) if body else None

    def events(self, after: str, wait_s: float = 0.0, limit: int = 100) -> list[DeploymentEvent]:
        """Return events after that stream id (FIRST_EVENT for all that are kept).

        Waits up to wait_s for the first one; wait_s must stay below SOCKET_TIMEOUT_S.
        """
        block = int(wait_s * 1000) or None
        with mapped():
            answer = cast("Any", self._redis.xread({_EVENTS: after}, count=limit, block=block))
        found = (_event(identity, fields) for identity, fields in stream_entries(answer, _EVENTS))
        return [event for event in found if event is not None]

    def latest_events(self, limit: int) -> list[DeploymentEvent]:
        """Return the newest events, the oldest of them first."""
        with mapped():
            entries = cast("list[tuple[str, dict[str, str]]]", self._redis.xrevrange(_EVENTS, count=limit))
        found = (_event(identity, fields) for identity, fields in reversed(entries))
        return [event for event in found if event is not None]

    def wait_for_events(self, after: tuple[str, str], wait_s: float) -> tuple[str, str]:
        """Return the newest ids of the deployment and tunnel events, once one is newer than `after` or after wait_s."""
        with mapped():
            answer = self._redis.xread(dict(zip(_STREAMS, after, strict=True)), block=int(wait_s * 1000) or None)
        newest = [stream_entries(answer, stream)[-1:] for stream in _STREAMS]
        deployment, tunnel = (found[0][0] if found else seen for found, seen in zip(newest, after, strict=True))
        return deployment, tunnel

    def last_event(self) -> str:
        """Return the id of the newest event, FIRST_EVENT when there is none."""
        with mapped():
            newest = cast("list[tuple[str, dict[str, str]]]", self._redis.xrevrange(_EVENTS, count=1))
        return newest[0][0] if newest else FIRST_EVENT


def slot_owner(deployment: str, job_name: str) -> str:
    """Return how a job is named as the owner of a slot."""
    return f"{deployment}/{job_name}"


def deployment_of(owner: str) -> str:
    """Return the deployment's id in the name of a slot's owner."""
    return owner.partition("/")[0]


def _target_of(deployment: Deployment, job: Job) -> SlotTarget | None:
    if job.phase not in (Phase.STARTING, Phase.READY, Phase.DRAINING) or not job.node or not job.listens:
        return None
    return SlotTarget(
        node=job.node,
        port=job.port,
        socket=job.socket,
        loopback=job.loopback,
        deployment=deployment.id,
        attached=deployment.attached is not None,
    )


def _event(identity: str, fields: dict[str, str]) -> DeploymentEvent | None:
    body = json.dumps({**fields, "id": identity, "ending": fields.get("ending") or None})
    return read_or_skip(DeploymentEvent, "event", identity, body)
