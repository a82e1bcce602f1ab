"""Records of batch jobs: one store a kind, named by a word.

Keys (all under `bouchet:`), for the word `download`:
    download:<id>      hash    version, body (the record as JSON)
    downloads          zset    ids by creation time, newest KEPT
    downloads-live     hash    subject -> id of the one under way
    download-events    stream  one entry a change: id, body; newest EVENTS_KEPT
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import redis

from bouchet_core.batch_jobs import BatchJob
from bouchet_core.errors import RecordError, StaleRecordError

from .connection import PREFIX, bodies, evaluate, mapped

KEPT = 200
EVENTS_KEPT = 5_000

AnyBatchJob = TypeVar("AnyBatchJob", bound=BatchJob)

# One a subject: whoever comes second is given the first one's record.
# KEYS: record all live events   ARGV: id subject version body created kept word
_CREATE = """
local owner = redis.call('HGET', KEYS[3], ARGV[2])
if owner then return owner end
redis.call('HSET', KEYS[1], 'version', ARGV[3], 'body', ARGV[4])
redis.call('HSET', KEYS[3], ARGV[2], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[5], ARGV[1])
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[6], '*', ARGV[7], ARGV[1], 'body', ARGV[4])
return ARGV[1]
"""

# Compare-and-set; one that has ended makes room for the next of its subject.
# KEYS: record live events   ARGV: id subject expected version body ended kept word
_SAVE = """
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[4], 'body', ARGV[5])
if ARGV[6] == '1' and redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[1] then redis.call('HDEL', KEYS[2], ARGV[2]) end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[7], '*', ARGV[8], ARGV[1], 'body', ARGV[5])
return 1
"""


@dataclass(frozen=True)
class BatchJobEvent(Generic[AnyBatchJob]):
    """One change of one batch_job. `id` is the event stream's."""

    id: str
    batch_job: AnyBatchJob


class BatchJobStore(Generic[AnyBatchJob]):
    """unknown: the error for an id that no record has. Methods raise RecordError subclasses or StoreUnavailableError."""

    def __init__(
        self, client: redis.Redis, word: str, record: type[AnyBatchJob], unknown: Callable[[str], RecordError]
    ) -> None:
        self._redis, self._word, self._type, self._unknown = client, word, record, unknown
        stem = PREFIX + word
        self._all, self._live, self._events = f"{stem}s", f"{stem}s-live", f"{stem}-events"

    def create(self, batch_job: AnyBatchJob) -> AnyBatchJob:
        """Keeps a new record; the one under way for the same subject is returned instead."""
        keys = [self._record(batch_job.id), self._all, self._live, self._events]
        body, created = batch_job.model_dump_json(), batch_job.created_at.timestamp()
        args: list[str | int | float] = [
            batch_job.id,
            batch_job.subject,
            batch_job.version,
            body,
            created,
            EVENTS_KEPT,
            self._word,
        ]
        made = str(self._eval(_CREATE, keys, args))
        if made != batch_job.id:
            return self.get(made)
        self._forget_oldest()
        return batch_job

    def get(self, name: str) -> AnyBatchJob:
        """The record of that id, or of the one under way for that subject."""
        with mapped():
            body = self._redis.hget(self._record(name), "body")
            if body is None:
                owner = self._redis.hget(self._live, name)
                body = self._redis.hget(self._record(cast(str, owner)), "body") if owner else None
        if body is None:
            raise self._unknown(name)
        return self._type.model_validate_json(cast(str, body))

    def live(self) -> list[AnyBatchJob]:
        """All that have not ended, oldest first."""
        with mapped():
            ids = cast("list[str]", self._redis.hvals(self._live))
        return sorted(self._load(sorted(ids)), key=lambda batch_job: batch_job.created_at)

    def page(self, limit: int = 50) -> list[AnyBatchJob]:
        """Newest first."""
        with mapped():
            ids = cast("list[str]", self._redis.zrevrange(self._all, 0, limit - 1))
        return self._load(ids)

    def update(self, identity: str, change: Callable[[AnyBatchJob], AnyBatchJob], tries: int = 5) -> AnyBatchJob:
        """Reads, changes and saves; again when somebody else was faster. The same value is not saved."""
        for _ in range(tries):
            old = self.get(identity)
            # a change may have come about in several steps
            new = change(old).model_copy(update={"version": old.version})
            if new == old:
                return old
            new = new.model_copy(update={"version": old.version + 1})
            if self._save(new):
                return new
        raise StaleRecordError(identity)

    def events(self, after: str, only: str, count: int = 200) -> list[BatchJobEvent[AnyBatchJob]]:
        """Changes of one batch job later than that event, oldest first. Does not wait."""
        with mapped():
            answer = cast(Any, self._redis.xrange(self._events, f"({after}", "+", count=count))
        wanted = [(identity, fields) for identity, fields in answer if fields[self._word] == only]
        if not wanted and len(answer) == count:
            return self.events(answer[-1][0], only, count)
        return [BatchJobEvent(identity, self._type.model_validate_json(fields["body"])) for identity, fields in wanted]

    def _save(self, new: AnyBatchJob) -> bool:
        keys = [self._record(new.id), self._live, self._events]
        over = 0 if new.is_live else 1
        body: list[str | int] = [new.id, new.subject, new.version - 1, new.version, new.model_dump_json()]
        return int(self._eval(_SAVE, keys, [*body, over, EVENTS_KEPT, self._word])) == 1

    def _forget_oldest(self) -> None:
        with mapped():
            old = cast("list[str]", self._redis.zrange(self._all, 0, -KEPT - 1))
            if old:
                self._redis.delete(*(self._record(identity) for identity in old))
                self._redis.zrem(self._all, *old)

    def _load(self, ids: Sequence[str]) -> list[AnyBatchJob]:
        found = bodies(self._redis, [self._record(identity) for identity in ids])
        return [self._type.model_validate_json(body) for body in found]

    def _eval(self, script: str, keys: Sequence[str], args: Sequence[str | int | float]) -> Any:
        return evaluate(self._redis, script, keys, args)

    def _record(self, identity: str) -> str:
        return f"{PREFIX}{self._word}:{identity}"
