"""Downloads of models, and the last look at the cluster's disk.

Keys (all under `bouchet:`):
    download:<id>      hash    version, body (the record as JSON)
    downloads          zset    ids by creation time, newest KEPT
    downloads-live     hash    model -> id of the download under way
    download-events    stream  one entry a change: id, body; newest EVENTS_KEPT
    disk               string  DiskLook as JSON
    disk-asked         string  set while a look is wanted, ASKED_TTL_S
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import redis

from bouchet_core.downloads import DiskLook, Download, DownloadEvent
from bouchet_core.errors import StaleRecord, UnknownDownload

from .connection import PREFIX, bodies, evaluate, mapped

KEPT = 200
EVENTS_KEPT = 5_000
ASKED_TTL_S = 20

_ALL, _LIVE, _EVENTS = PREFIX + "downloads", PREFIX + "downloads-live", PREFIX + "download-events"
_DISK, _DISK_ASKED = PREFIX + "disk", PREFIX + "disk-asked"

# One download a model: whoever comes second is given the first one's record.
# KEYS: record all live events   ARGV: id model version body created kept
_CREATE = """
local owner = redis.call('HGET', KEYS[3], ARGV[2])
if owner then return owner end
redis.call('HSET', KEYS[1], 'version', ARGV[3], 'body', ARGV[4])
redis.call('HSET', KEYS[3], ARGV[2], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[5], ARGV[1])
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[6], '*', 'download', ARGV[1], 'body', ARGV[4])
return ARGV[1]
"""

# Compare-and-set; one that has ended makes room for the next of its model.
# KEYS: record live events   ARGV: id model expected version body ended kept
_SAVE = """
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[4], 'body', ARGV[5])
if ARGV[6] == '1' and redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[1] then redis.call('HDEL', KEYS[2], ARGV[2]) end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[7], '*', 'download', ARGV[1], 'body', ARGV[5])
return 1
"""


class DownloadStore:
    """The records of downloads. Methods raise RecordError subclasses or StoreUnavailable."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def create(self, download: Download) -> Download:
        """Keeps a new record; the one under way for the same model is returned instead."""
        keys = [_record(download.id), _ALL, _LIVE, _EVENTS]
        body, created = download.model_dump_json(), download.created_at.timestamp()
        args: list[str | int | float] = [download.id, download.model, download.version, body, created, EVENTS_KEPT]
        made = str(self._eval(_CREATE, keys, args))
        if made != download.id:
            return self.get(made)
        self._forget_oldest()
        return download

    def get(self, download: str) -> Download:
        """The record of that id, or of the download under way for that model."""
        with mapped():
            body = self._redis.hget(_record(download), "body")
            if body is None:
                owner = self._redis.hget(_LIVE, download)
                body = self._redis.hget(_record(cast(str, owner)), "body") if owner else None
        if body is None:
            raise UnknownDownload(download)
        return Download.model_validate_json(cast(str, body))

    def live(self) -> list[Download]:
        """All that have not ended, oldest first."""
        with mapped():
            ids = cast("list[str]", self._redis.hvals(_LIVE))
        return sorted(self._load(sorted(ids)), key=lambda d: d.created_at)

    def page(self, limit: int = 50) -> list[Download]:
        """Downloads, newest first."""
        with mapped():
            ids = cast("list[str]", self._redis.zrevrange(_ALL, 0, limit - 1))
        return self._load(ids)

    def update(self, download: str, change: Callable[[Download], Download], tries: int = 5) -> Download:
        """Reads, changes and saves; again when somebody else was faster. The same value is not saved."""
        for _ in range(tries):
            old = self.get(download)
            # a change may have come about in several steps
            new = change(old).model_copy(update={"version": old.version})
            if new == old:
                return old
            new = new.model_copy(update={"version": old.version + 1})
            if self._save(new):
                return new
        raise StaleRecord(download)

    def events(self, after: str, only: str, count: int = 200) -> list[DownloadEvent]:
        """Changes of one download later than that event, oldest first. Does not wait."""
        with mapped():
            answer = cast(Any, self._redis.xrange(_EVENTS, f"({after}", "+", count=count))
        wanted = [(identity, fields) for identity, fields in answer if fields["download"] == only]
        if not wanted and len(answer) == count:
            return self.events(answer[-1][0], only, count)
        return [DownloadEvent(id=i, download=Download.model_validate_json(f["body"])) for i, f in wanted]

    # the cluster's disk

    def disk(self) -> DiskLook | None:
        """The last look, however old; None before the first."""
        with mapped():
            body = self._redis.get(_DISK)
        return DiskLook.model_validate_json(cast(str, body)) if body else None

    def keep_disk(self, look: DiskLook) -> None:
        """Replaces the last look."""
        with mapped():
            self._redis.set(_DISK, look.model_dump_json())
            self._redis.delete(_DISK_ASKED)

    def may_ask_for_disk(self) -> bool:
        """True for one caller at a time: it asks the worker to look, the others wait for what comes of it."""
        with mapped():
            return bool(self._redis.set(_DISK_ASKED, "1", nx=True, ex=ASKED_TTL_S))

    def _save(self, new: Download) -> bool:
        keys = [_record(new.id), _LIVE, _EVENTS]
        over = 0 if new.is_live else 1
        body: list[str | int] = [new.id, new.model, new.version - 1, new.version, new.model_dump_json()]
        return int(self._eval(_SAVE, keys, [*body, over, EVENTS_KEPT])) == 1

    def _forget_oldest(self) -> None:
        with mapped():
            old = cast("list[str]", self._redis.zrange(_ALL, 0, -KEPT - 1))
            if old:
                self._redis.delete(*(_record(identity) for identity in old))
                self._redis.zrem(_ALL, *old)

    def _load(self, ids: Sequence[str]) -> list[Download]:
        found = bodies(self._redis, [_record(identity) for identity in ids])
        return [Download.model_validate_json(body) for body in found]

    def _eval(self, script: str, keys: Sequence[str], args: Sequence[str | int | float]) -> Any:
        return evaluate(self._redis, script, keys, args)


def _record(download: str) -> str:
    return f"{PREFIX}download:{download}"
