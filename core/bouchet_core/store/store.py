"""The store of one installation: all records over one Redis client, leases and heartbeats.

Keys (all under `bouchet:`), beside those of the other modules:
    lease:<name>      string owner of a lease
    heartbeat:<name>  string set while a process lives
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Self

import redis

from bouchet_core.tunnel import TargetSigner

from .api_keys import ApiKeyStore, SignOutStore
from .batch_jobs import DownloadStore, ImageStore
from .client import PREFIX, RedisLogin, evaluate, mapped, open_client
from .cluster import OrphanStore, OutageStore, TunnelStore
from .deployments import DeploymentStore
from .figures import FiguresStore
from .ledger import LedgerStore
from .live import LiveStore
from .load import LoadStore
from .notices import NoticeStore
from .queries import Query, ask, ask_all
from .reading import Unreadable
from .usage import UsageStore

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


class Store(DeploymentStore):
    """All state of one installation: deployments here, everything else in an attribute of its own.

    Methods raise RecordError and StoreError subclasses.
    """

    def __init__(self, client: redis.Redis, signer: TargetSigner | None = None) -> None:
        super().__init__(client)
        self.signer = signer
        self.api_keys = ApiKeyStore(client)
        self.sign_outs = SignOutStore(client)
        self.downloads = DownloadStore(client)
        self.images = ImageStore(client)
        self.usage = UsageStore(client)
        self.orphans = OrphanStore(client)
        self.tunnel = TunnelStore(client)
        self.outage = OutageStore(client)
        self.load = LoadStore(client)
        self.figures = FiguresStore(client)
        self.live_view = LiveStore(client)
        self.ledger = LedgerStore(client)
        self.notices = NoticeStore(client)

    def all_unreadable(self) -> list[Unreadable]:
        """Return everything stored that this version cannot read: deployments, downloads, image builds, keys."""
        stores = (self, self.downloads, self.images, self.api_keys)
        return [one for store in stores for one in store.unreadable()]

    @classmethod
    def connect(cls, login: RedisLogin, signer: TargetSigner | None = None) -> Self:
        """Return a store on that Redis; nothing is sent before the first call."""
        return cls(open_client(login, decode_responses=True), signer)

    def close(self) -> None:
        """Close the pooled connections."""
        self._redis.close()

    def queue_connection(self) -> redis.Redis:
        """Return a client of the same Redis for RQ, which expects bytes. The caller closes it."""
        known = self._redis.get_connection_kwargs()
        login = RedisLogin(known["host"], known["port"], known["password"], known["username"])
        # RQ's blocking read of a result indexes XREAD's reply as the list that RESP2 has
        return open_client(login, decode_responses=False, protocol=2)

    @staticmethod
    def errors_mapped() -> AbstractContextManager[None]:
        """Map the errors of code that uses Redis through another library (RQ) to StoreError."""
        return mapped()

    def ping(self) -> None:
        """Raise StoreUnavailableError unless Redis answers."""
        with mapped():
            self._redis.ping()

    def ask(self, *queries: Query[Any]) -> list[Any]:
        """Return the answers to queries of this store and of its parts, which share a round trip."""
        return ask_all(self._redis, *queries)

    def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        """Take or renew a lease; return False while it has another owner."""
        return ask(self._redis, self.lease_query(name, owner, ttl_s))

    def lease_query(self, name: str, owner: str, ttl_s: float) -> Query[bool]:
        """Return the query that takes or renews it."""
        command = ("EVAL", _LEASE, 1, f"{PREFIX}lease:{name}", owner, int(ttl_s * 1000))
        return Query([command], lambda answers: bool(answers[0]))

    def release(self, name: str, owner: str) -> None:
        """Release a lease; a lease of another owner stays."""
        evaluate(self._redis, _RELEASE, [f"{PREFIX}lease:{name}"], [owner])

    def beat(self, name: str, ttl_s: float) -> None:
        """Renew the heartbeat of the process `name` for ttl_s."""
        ask(self._redis, self.beat_query(name, ttl_s))

    def beat_query(self, name: str, ttl_s: float) -> Query[None]:
        """Return the query that renews it."""
        return Query([("SET", f"{PREFIX}heartbeat:{name}", "1", "PX", int(ttl_s * 1000))], lambda _: None)

    def beats(self, name: str) -> bool:
        """Return whether the process `name` has a recent heartbeat."""
        with mapped():
            return bool(self._redis.exists(f"{PREFIX}heartbeat:{name}"))
