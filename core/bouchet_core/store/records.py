"""Records with a version in Redis: create once, compare-and-set, one event per change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import redis
from pydantic import ValidationError

from bouchet_core.errors import RecordError, StaleRecordError, UnreadableRecordError

from .client import evaluate, mapped
from .queries import Query, ask
from .reading import Unreadable, problem_of, read_or_skip, read_stored, unreadable_of

# how many of the newest records are checked by `unreadable`, beside the live ones
CHECKED_RECORDS = 200

# A record, the names that it owns and its event appear together or not at all.
# KEYS: record all live owners events once
# ARGV: id version body created once_ttl events_kept number_of_names names... event_fields...
_CREATE = """
if KEYS[6] ~= '' then
  local made = redis.call('GET', KEYS[6])
  if made then return {'made', made} end
end
if redis.call('EXISTS', KEYS[1]) == 1 then return {'made', ARGV[1]} end
local last = 7 + ARGV[7]
for i = 8, last do
  local owner = redis.call('HGET', KEYS[4], ARGV[i])
  if owner then return {'taken', ARGV[i], owner} end
end
for i = 8, last do redis.call('HSET', KEYS[4], ARGV[i], ARGV[1]) end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'body', ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
if KEYS[3] ~= '' then redis.call('SADD', KEYS[3], ARGV[1]) end
if KEYS[6] ~= '' then redis.call('SET', KEYS[6], ARGV[1], 'EX', ARGV[5]) end
redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[6], '*', unpack(ARGV, last + 1))
return {'ok'}
"""

# Compare-and-set; a record that has ended releases its names and slots in the same step, a job that has ended its slot.
# A slot that another owner holds by now is left alone.
# KEYS: record live owners slots targets events ended
# ARGV: id expected version body has_ended updated ended_kept events_kept number_of_targets
#       (slot target owner is_released)... event_fields...
_SAVE = """
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[3], 'body', ARGV[4])
local last = 9 + 4 * ARGV[9]
for i = 10, last, 4 do
  local owner = redis.call('HGET', KEYS[4], ARGV[i])
  if not owner or owner == ARGV[i + 2] or owner == ARGV[1] then
    if ARGV[i + 1] == '' then redis.call('HDEL', KEYS[5], ARGV[i])
    else redis.call('HSET', KEYS[5], ARGV[i], ARGV[i + 1]) end
    if ARGV[i + 3] == '1' and owner == ARGV[i + 2] then redis.call('HDEL', KEYS[4], ARGV[i]) end
  end
end
if ARGV[5] == '1' then
  if KEYS[2] ~= '' and redis.call('SREM', KEYS[2], ARGV[1]) == 1 then
    redis.call('ZADD', KEYS[7], ARGV[6], ARGV[1])
    redis.call('ZREMRANGEBYRANK', KEYS[7], 0, -ARGV[7] - 1)
  end
  for _, key in ipairs({KEYS[3], KEYS[4]}) do
    local held = key ~= '' and redis.call('HGETALL', key) or {}
    for i = 1, #held, 2 do
      if held[i + 1] == ARGV[1] or string.sub(held[i + 1], 1, #ARGV[1] + 1) == ARGV[1] .. '/' then
        redis.call('HDEL', key, held[i])
      end
    end
  end
end
redis.call('XADD', KEYS[6], 'MAXLEN', '~', ARGV[8], '*', unpack(ARGV, last + 1))
return 1
"""


class Record(Protocol):
    """What a stored value must have; `version` counts its changes."""

    @property
    def id(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def updated_at(self) -> datetime: ...
    @property
    def is_live(self) -> bool: ...
    def model_dump_json(self) -> str: ...
    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self: ...
    @classmethod
    def model_validate_json(cls, json_data: str, *, extra: Any = None) -> Self: ...


AnyRecord = TypeVar("AnyRecord", bound=Record)


@dataclass(frozen=True)
class RecordKeys:
    """Redis keys of one kind of record; an empty key is not used. `record` is the prefix of the records' own keys.

    Kinds with a `live` set have an `ended` one too.
    """

    record: str
    all: str
    owners: str
    events: str
    live: str = ""
    ended: str = ""
    slots: str = ""
    targets: str = ""


@dataclass(frozen=True)
class HeldSlot:
    """A slot of a record. An empty target removes where it leads; is_released: its owner no longer needs it."""

    slot: int
    target: str
    owner: str
    is_released: bool = False

    @property
    def words(self) -> tuple[str, str, str, str]:
        """The arguments of the script that saves a record."""
        return str(self.slot), self.target, self.owner, "1" if self.is_released else "0"


class RecordStore(Generic[AnyRecord]):
    """Records of one kind. Methods raise RecordError subclasses or StoreUnavailableError."""

    kind: str
    keys: RecordKeys
    record_type: type[AnyRecord]
    events_kept: int
    ended_kept: int = 0

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        # what was live last: body and record by id. Records are frozen, so an unchanged one is not parsed again.
        self._last_live: Mapping[str, tuple[str, AnyRecord | None]] = {}

    def event_of(self, record: AnyRecord) -> Mapping[str, str]:
        """Return the fields of the event that a change to this record appends."""
        raise NotImplementedError

    def names_of(self, record: AnyRecord) -> Sequence[str]:
        """Return the names that only one live record may own."""
        raise NotImplementedError

    def unknown(self, name: str) -> RecordError:
        """Return the error for a name that no record has."""
        raise NotImplementedError

    def targets_of(self, record: AnyRecord) -> Sequence[HeldSlot]:
        """Return every slot of the record."""
        return ()

    def get(self, name: str) -> AnyRecord:
        """Return the record of that id, or the live one that owns that name. Raises UnreadableRecordError."""
        with mapped():
            body = self._redis.hget(self._key(name), "body")
            if body is None:
                owner = self._redis.hget(self.keys.owners, name)
                body = self._redis.hget(self._key(cast(str, owner)), "body") if owner else None
        if body is None:
            raise self.unknown(name)
        known_body, known = self._last_live.get(name, ("", None))
        if known is not None and known_body == body:
            return known
        try:
            return read_stored(self.record_type, cast(str, body))
        except ValidationError as exc:
            raise UnreadableRecordError(self.kind, name, problem_of(exc)) from exc

    def live(self) -> list[AnyRecord]:
        """Return all that have not ended and can be read, oldest first."""
        return ask(self._redis, self.live_query())

    def live_query(self) -> Query[list[AnyRecord]]:
        """Return the query for them: a second round trip is needed only for those that were not live last time."""
        known = list(self._last_live)

        def parse(answers: Sequence[Any]) -> list[AnyRecord]:
            ids, bodies = sorted(answers[0]), dict(zip(known, answers[1:], strict=True))
            bodies |= self._bodies([identity for identity in ids if not bodies.get(identity)])
            return self._parse_live({identity: bodies[identity] for identity in ids if bodies.get(identity)})

        return Query((self._live_ids_command(), *(("HGET", self._key(one), "body") for one in known)), parse)

    def unreadable(self, *, live: bool = False) -> list[Unreadable]:
        """Return the records that this version cannot read; they keep their ids, names and slots. live: only those."""
        ids = set(self._live_ids())
        if not live:
            with mapped():
                ids |= set(cast("list[str]", self._redis.zrevrange(self.keys.all, 0, CHECKED_RECORDS - 1)))
        return unreadable_of(self.record_type, self.kind, self._bodies(sorted(ids)).items())

    def page(self, limit: int = 50, offset: int = 0) -> list[AnyRecord]:
        """Return records, newest first."""
        with mapped():
            ids = cast("list[str]", self._redis.zrevrange(self.keys.all, offset, offset + limit - 1))
        return self.read_records(ids)

    def save(self, record: AnyRecord) -> AnyRecord:
        """Replace the version before this one and append the event in one step, or raise StaleRecordError."""
        keys = self.keys
        targets, event = self.targets_of(record), self.event_of(record)
        args: list[str | int | float] = [
            record.id,
            record.version - 1,
            record.version,
            record.model_dump_json(),
            0 if record.is_live else 1,
            record.updated_at.timestamp(),
            self.ended_kept,
            self.events_kept,
            len(targets),
            *(word for held in targets for word in held.words),
            *(word for pair in event.items() for word in pair),
        ]
        names = [self._key(record.id), keys.live, keys.owners, keys.slots, keys.targets, keys.events, keys.ended]
        if not evaluate(self._redis, _SAVE, names, args):
            raise StaleRecordError(record.id)
        return record

    def update(
        self, name: str, change: Callable[[AnyRecord], AnyRecord], tries: int = 10, known: AnyRecord | None = None
    ) -> AnyRecord:
        """Read, change and save, again while other writers are faster; an unchanged record is not saved.

        known: the record as it was read a moment ago; it is read only if another writer was faster.
        """
        for number in range(tries):
            old = known if known is not None and number == 0 else self.get(name)
            # a change may be made of several steps, each of which raised the version
            new = change(old).model_copy(update={"version": old.version})
            if new == old:
                return old
            try:
                return self.save(new.model_copy(update={"version": old.version + 1}))
            except StaleRecordError:
                continue
        raise StaleRecordError(name)

    def _create(self, record: AnyRecord, once: str = "", once_ttl_s: int = 0) -> tuple[str, ...]:
        """Store a new record.

        Returns ("ok",), ("made", id) where the id or the key `once` exists, or ("taken", name, id of its owner).
        """
        names, event, keys = self.names_of(record), self.event_of(record), self.keys
        args: list[str | float] = [
            record.id,
            record.version,
            record.model_dump_json(),
            record.created_at.timestamp(),
            once_ttl_s,
            self.events_kept,
            len(names),
            *names,
            *(word for pair in event.items() for word in pair),
        ]
        redis_keys = [self._key(record.id), keys.all, keys.live, keys.owners, keys.events, once]
        return tuple(evaluate(self._redis, _CREATE, redis_keys, args))

    def read_records(self, ids: Sequence[str]) -> list[AnyRecord]:
        """Return the records of these ids in one round trip, without those that are gone or cannot be read."""
        found = (read_or_skip(self.record_type, self.kind, *pair) for pair in self._bodies(ids).items())
        return [record for record in found if record is not None]

    def _parse_live(self, bodies: Mapping[str, str]) -> list[AnyRecord]:
        """Return the live records of these bodies, oldest first."""
        known = self._last_live
        found = {
            identity: known[identity]
            if identity in known and known[identity][0] == body
            else (body, read_or_skip(self.record_type, self.kind, identity, body))
            for identity, body in bodies.items()
        }
        self._last_live = found
        return sorted((record for _, record in found.values() if record), key=lambda record: record.created_at)

    def _live_ids_command(self) -> tuple[str, str]:
        return ("SMEMBERS", self.keys.live) if self.keys.live else ("HVALS", self.keys.owners)

    def _live_ids(self) -> list[str]:
        return ask(self._redis, Query([self._live_ids_command()], lambda answers: sorted(answers[0])))

    def _bodies(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the bodies by id in one round trip, without those that are gone."""
        if not ids:
            return {}
        with mapped():
            pipe = self._redis.pipeline(transaction=False)
            for identity in ids:
                pipe.hget(self._key(identity), "body")
            bodies = pipe.execute()
        return {identity: body for identity, body in zip(ids, bodies, strict=True) if body}

    def _key(self, identity: str) -> str:
        return f"{self.keys.record}{identity}"
