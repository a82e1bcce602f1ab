"""The store: all state that is kept in Redis. The only package that knows a Redis key.

Each kind of state has a module of its own over the same client.
"""

from .batch_jobs import BatchJobStore
from .client import SOCKET_TIMEOUT_S, RedisLogin
from .deployments import ENDED_KEPT, EVENTS_KEPT, FIRST_EVENT, ONCE_TTL_S
from .store import Store

__all__ = [
    "ENDED_KEPT",
    "EVENTS_KEPT",
    "FIRST_EVENT",
    "ONCE_TTL_S",
    "SOCKET_TIMEOUT_S",
    "BatchJobStore",
    "RedisLogin",
    "Store",
]
