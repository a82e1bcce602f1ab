"""Deployments: records, slots, events and leases.

Keys (all under `bouchet:`):
    deployment:<id>   hash   version, body (the record as JSON)
    all               zset   ids by creation time
    live              set    ids of deployments that have not ended
    ended             zset   ids of deployments by the time of their end, newest ENDED_KEPT
    names             hash   every name of a live deployment -> its id
    slots             hash   slot -> id of the deployment that holds it
    targets           hash   slot -> SlotTarget as JSON
    events            stream one entry a change, newest EVENTS_KEPT
    once:<key>        string id made for an idempotency key, ONCE_TTL_S
    lease:<name>      string owner of a lease
    heartbeat:<name>  string set while a process lives
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, cast

import redis

from bouchet_core.deployments import Deployment, DeploymentEvent, Phase
from bouchet_core.errors import NameTakenError, NoFreeSlotError, StaleRecordError, UnknownDeploymentError
from bouchet_core.tunnel import SlotTarget

from .api_keys import ApiKeyStore
from .connection import PREFIX as _P
from .connection import bodies, evaluate, mapped, open_client
from .downloads import DownloadStore
from .images import ImageStore
from .orphans import OrphanStore
from .outage import OutageStore
from .tunnel import TUNNEL_EVENTS, TunnelStore
from .usage import UsageStore

EVENTS_KEPT = 10_000
ONCE_TTL_S = 24 * 3600
FIRST_EVENT = "0-0"
ENDED_KEPT = 200

_ALL, _LIVE, _ENDED, _NAMES = _P + "all", _P + "live", _P + "ended", _P + "names"
_SLOTS, _TARGETS, _EVENTS = _P + "slots", _P + "targets", _P + "events"
_NEWS = (_EVENTS, TUNNEL_EVENTS)

# A record, its names and its event appear together or not at all.
# KEYS: record all live names events once   ARGV: id version body created ttl kept phase reason at names...
_CREATE = """
if KEYS[6] ~= '' then
  local made = redis.call('GET', KEYS[6])
  if made then return {'made', made} end
end
if redis.call('EXISTS', KEYS[1]) == 1 then return {'made', ARGV[1]} end
for i = 10, #ARGV do
  local owner = redis.call('HGET', KEYS[4], ARGV[i])
  if owner then return {'taken', ARGV[i], owner} end
end
for i = 10, #ARGV do redis.call('HSET', KEYS[4], ARGV[i], ARGV[1]) end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'body', ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
if KEYS[6] ~= '' then redis.call('SET', KEYS[6], ARGV[1], 'EX', ARGV[5]) end
redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[6], '*', 'deployment', ARGV[1], 'phase', ARGV[7], 'ending', '',
  'reason', ARGV[8], 'at', ARGV[9])
return {'ok'}
"""

# Compare-and-set; an ended deployment gives its names and slots back in the same step.
# KEYS: record live names slots targets events ended
# ARGV: id expected version body ended kept phase ending reason at timestamp ended-kept, then slot target pairs
_SAVE = """
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[3], 'body', ARGV[4])
for i = 13, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', KEYS[5], ARGV[i])
  else redis.call('HSET', KEYS[5], ARGV[i], ARGV[i + 1]) end
end
if ARGV[5] == '1' then
  if redis.call('SREM', KEYS[2], ARGV[1]) == 1 then
    redis.call('ZADD', KEYS[7], ARGV[11], ARGV[1])
    redis.call('ZREMRANGEBYRANK', KEYS[7], 0, -ARGV[12] - 1)
  end
  for _, key in ipairs({KEYS[3], KEYS[4]}) do
    local held = redis.call('HGETALL', key)
    for i = 1, #held, 2 do
      if held[i + 1] == ARGV[1] then redis.call('HDEL', key, held[i]) end
    end
  end
end
redis.call('XADD', KEYS[6], 'MAXLEN', '~', ARGV[6], '*', 'deployment', ARGV[1], 'phase', ARGV[7], 'ending', ARGV[8],
  'reason', ARGV[9], 'at', ARGV[10])
return 1
"""

# KEYS: slots   ARGV: id count
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

# KEYS: lease   ARGV: owner
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""

# KEYS: lease   ARGV: owner milliseconds
_LEASE = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


class Store:
    """All records of one installation. Methods raise RecordError subclasses or StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self.api_keys = ApiKeyStore(client)
        self.downloads = DownloadStore(client)
        self.images = ImageStore(client)
        self.usage = UsageStore(client)
        self.orphans = OrphanStore(client)
        self.tunnel = TunnelStore(client)
        self.outage = OutageStore(client)

    @classmethod
    def connect(cls, host: str, port: int, password: str | None) -> Store:
        """A store on that Redis; nothing is sent before the first call."""
        return cls(open_client(host, port, password, decode_responses=True))

    def close(self) -> None:
        """Closes the pooled connections."""
        self._redis.close()

    def queue_connection(self) -> redis.Redis:
        """Return a client of the same Redis for RQ, which expects bytes; the caller closes it."""
        known = self._redis.get_connection_kwargs()
        # rq's blocking read of a result indexes XREAD's reply as the list that RESP2 has
        return open_client(known["host"], known["port"], known["password"], decode_responses=False, protocol=2)

    @staticmethod
    def errors_mapped() -> AbstractContextManager[None]:
        """For code that speaks to Redis through another library (RQ): its errors become StoreUnavailableError."""
        return mapped()

    def ping(self) -> None:
        """Raises StoreUnavailableError unless Redis answers."""
        with mapped():
            self._redis.ping()

    # records

    def create(self, deployment: Deployment, once: str | None = None) -> Deployment:
        """Keeps a new record and takes its names, or raises NameTakenError.

        once: an idempotency key; the record made for the same key earlier is returned instead, and so is one of the
        same id.
        """
        keys = [_record(deployment.id), _ALL, _LIVE, _NAMES, _EVENTS, f"{_P}once:{once}" if once else ""]
        args: list[str | float] = [
            deployment.id,
            deployment.version,
            deployment.model_dump_json(),
            deployment.created_at.timestamp(),
            ONCE_TTL_S,
            EVENTS_KEPT,
            deployment.phase,
            deployment.reason,
            deployment.updated_at.isoformat(),
            *deployment.names,
        ]
        answer = self._eval(_CREATE, keys, args)
        if answer[0] == "taken":
            raise NameTakenError(answer[1], answer[2])
        return self.get(answer[1]) if answer[0] == "made" else deployment

    def get(self, deployment: str) -> Deployment:
        """The record of that id, or of the live deployment that answers under that name."""
        with mapped():
            body = self._redis.hget(_record(deployment), "body")
            if body is None:
                owner = self._redis.hget(_NAMES, deployment)
                body = self._redis.hget(_record(cast(str, owner)), "body") if owner else None
        if body is None:
            raise UnknownDeploymentError(deployment)
        return Deployment.model_validate_json(cast(str, body))

    def live(self) -> list[Deployment]:
        """All deployments that have not ended, oldest first."""
        with mapped():
            ids = cast("set[str]", self._redis.smembers(_LIVE))
        return sorted(self._load(sorted(ids)), key=lambda d: d.created_at)

    def page(self, limit: int = 50, offset: int = 0) -> list[Deployment]:
        """Deployments, newest first."""
        with mapped():
            ids = cast("list[str]", self._redis.zrevrange(_ALL, offset, offset + limit - 1))
        return self._load(ids)

    def ended_since(self, moment: datetime) -> list[Deployment]:
        """Return the deployments that ended after that moment, the last to end first; at most ENDED_KEPT."""
        with mapped():
            ids = cast("list[str]", self._redis.zrevrangebyscore(_ENDED, "+inf", moment.timestamp()))
        return self._load(ids)

    def save(self, deployment: Deployment) -> Deployment:
        """Replaces the version before this one, or raises StaleRecordError; appends the event in the same step."""
        keys = [_record(deployment.id), _LIVE, _NAMES, _SLOTS, _TARGETS, _EVENTS, _ENDED]
        args: list[str | int | float] = [
            deployment.id,
            deployment.version - 1,
            deployment.version,
            deployment.model_dump_json(),
            0 if deployment.is_live else 1,
            EVENTS_KEPT,
            deployment.phase,
            deployment.ending or "",
            deployment.reason,
            deployment.updated_at.isoformat(),
            deployment.updated_at.timestamp(),
            ENDED_KEPT,
            *_slot_targets(deployment),
        ]
        if not self._eval(_SAVE, keys, args):
            raise StaleRecordError(deployment.id)
        return deployment

    def update(self, deployment: str, change: Callable[[Deployment], Deployment], tries: int = 10) -> Deployment:
        """Reads, changes and saves, again while others are faster. `change` must be pure."""
        for _ in range(tries):
            old = self.get(deployment)
            new = change(old)
            if new is old:
                return old
            try:
                return self.save(new)
            except StaleRecordError:
                continue
        raise StaleRecordError(deployment)

    # slots

    def take_slot(self, deployment: str, count: int) -> int:
        """The deployment's slot, the lowest free one the first time; NoFreeSlotError when all `count` are held."""
        slot = int(self._eval(_TAKE_SLOT, [_SLOTS], [deployment, count]))
        if slot < 0:
            raise NoFreeSlotError(count)
        return slot

    def slot_target(self, slot: int) -> SlotTarget | None:
        """Where that slot leads now, None when nothing runs behind it."""
        with mapped():
            body = self._redis.hget(_TARGETS, str(slot))
        return SlotTarget.model_validate_json(cast(str, body)) if body else None

    # events

    def events(self, after: str, wait_s: float = 0.0, limit: int = 100) -> list[DeploymentEvent]:
        """Events after that stream id (FIRST_EVENT for all kept).

        Waits up to wait_s for the first one; it must stay below SOCKET_TIMEOUT_S.
        """
        block = int(wait_s * 1000) or None
        with mapped():
            answer = cast("Any", self._redis.xread({_EVENTS: after}, count=limit, block=block))
        entries = _entries(answer)
        return [_event(identity, fields) for identity, fields in entries]

    def wait_for_news(self, after: tuple[str, str], wait_s: float) -> tuple[str, str]:
        """The newest ids of the events and of the tunnel's changes, once one is newer, or after wait_s."""
        with mapped():
            answer = self._redis.xread(dict(zip(_NEWS, after, strict=True)), block=int(wait_s * 1000) or None)
        found = cast("dict[str, Any] | list[tuple[str, Any]]", answer or {})
        # RESP3 has the entries in a list of their own
        last = {key: pages[0] if isinstance(found, dict) else pages for key, pages in dict(found).items()}
        return cast(
            "tuple[str, str]", tuple(last[k][-1][0] if k in last else a for k, a in zip(_NEWS, after, strict=True))
        )

    def last_event(self) -> str:
        """The id of the newest event, FIRST_EVENT when there is none."""
        with mapped():
            newest = cast("list[tuple[str, dict[str, str]]]", self._redis.xrevrange(_EVENTS, count=1))
        return newest[0][0] if newest else FIRST_EVENT

    # processes

    def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        """Takes or renews a lease; False while somebody else holds it."""
        return bool(self._eval(_LEASE, [f"{_P}lease:{name}"], [owner, int(ttl_s * 1000)]))

    def release(self, name: str, owner: str) -> None:
        """Gives a lease back; nothing happens when somebody else holds it by now."""
        self._eval(_RELEASE, [f"{_P}lease:{name}"], [owner])

    def beat(self, name: str, ttl_s: float) -> None:
        """Says that the process `name` lives, for ttl_s."""
        with mapped():
            self._redis.set(f"{_P}heartbeat:{name}", "1", px=int(ttl_s * 1000))

    def beats(self, name: str) -> bool:
        """Whether the process `name` said so recently."""
        with mapped():
            return bool(self._redis.exists(f"{_P}heartbeat:{name}"))

    def _load(self, ids: Sequence[str]) -> list[Deployment]:
        found = bodies(self._redis, [_record(identity) for identity in ids])
        return [Deployment.model_validate_json(body) for body in found]

    def _eval(self, script: str, keys: Sequence[str], args: Sequence[str | int | float]) -> Any:
        return evaluate(self._redis, script, keys, args)


def _record(deployment: str) -> str:
    return f"{_P}deployment:{deployment}"


def _slot_targets(deployment: Deployment) -> list[str]:
    """Pairs slot, target-as-JSON ('' removes it) for every job of the deployment."""
    pairs: list[str] = []
    for job in deployment.jobs:
        target = ""
        if job.phase in (Phase.STARTING, Phase.READY, Phase.DRAINING) and job.node and job.listens:
            place = SlotTarget(
                node=job.node, port=job.port, socket=job.socket, loopback=job.loopback, deployment=deployment.id
            )
            # without what a gateway of an older version would not know
            target = place.model_dump_json(exclude_defaults=True)
        pairs += [str(job.slot), target]
    return pairs


def _entries(answer: Any) -> list[tuple[str, dict[str, str]]]:
    """XREAD's answer for one stream; RESP3 gives a mapping, RESP2 a list of pairs."""
    if not answer:
        return []
    if isinstance(answer, dict):
        return cast("list[tuple[str, dict[str, str]]]", answer[_EVENTS][0])
    return cast("list[tuple[str, dict[str, str]]]", answer[0][1])


def _event(identity: str, fields: dict[str, str]) -> DeploymentEvent:
    return DeploymentEvent.model_validate({**fields, "id": identity, "ending": fields["ending"] or None})
