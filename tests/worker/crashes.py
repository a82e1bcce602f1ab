"""Crashes of a worker at its n-th call of the store or the gateway, before or after that call."""

from __future__ import annotations

from typing import Any

from bouchet_core.store import Store
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.submit import lease_name

from .scenario import MakeWorkerContext

CRASHING = "crashing-worker"


class CrashError(BaseException):
    """The worker was killed; no handler catches this."""


class CrashingClient:
    """A proxy of the store or the gateway that crashes when `calls_left[0]` reaches zero."""

    def __init__(self, inner: object, calls_left: list[int], after: bool) -> None:
        self._inner, self._calls_left, self._after = inner, calls_left, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if not callable(method):
            return CrashingClient(method, self._calls_left, self._after)
        # a killed process does not release its leases
        if name == "release":
            return lambda *args: None

        def call(*args: object, **options: object) -> object:
            self._calls_left[0] -= 1
            if self._calls_left[0] == 0 and not self._after:
                raise CrashError
            result = method(*args, **options)
            if self._calls_left[0] == 0:
                raise CrashError
            return result

        return call


def crashing_context(
    make_context: MakeWorkerContext, store: Store, gateway: object, calls: int, after: bool
) -> tuple[WorkerContext, list[int]]:
    """Return a context that crashes at that call, and its counter, which stays above zero when it was not reached."""
    left = [calls]
    clients = {"store": CrashingClient(store, left, after), "gateway": CrashingClient(gateway, left, after)}
    return make_context(CRASHING, **clients), left


def expire_lease(store: Store, deployment: str) -> None:
    """Release the lease of the crashed worker, as its time limit would."""
    store.release(lease_name(deployment), CRASHING)
