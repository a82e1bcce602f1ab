"""The proxy's tests: pure rules first, then one contract over both backends.

The contract runs against a real server, a real Redis and a fake vLLM. With LiteLLM (tests/proxy/litellm) it needs the
built image, or an interpreter that has LiteLLM:

    BOUCHET_PROXY_IMAGE=bouchet/proxy:dev pytest tests/proxy
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

from tests.conftest import free_port, free_ports, start_redis
from tests.proxy.environment import IMAGE_VARIABLE, SLOTS, ProxyEnvironment, RunningProxy, run_app, serve_model

collect_ignore = [] if os.environ.get(IMAGE_VARIABLE) or importlib.util.find_spec("litellm") else ["litellm"]


@pytest.fixture(scope="session", autouse=True)
def _short_intervals() -> Iterator[None]:
    """Make the threads of this process write usage and read tables again after a fraction of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bouchet_proxy.usage.recorder.FLUSH_S", 0.1)
        for name, interval_s in (("ROUTES_REREAD_S", 0.5), ("ROUTES_RETRY_S", 0.2), ("KEYS_RETRY_S", 0.2)):
            patch.setattr(f"bouchet_proxy.refresh.{name}", interval_s)
        yield


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyEnvironment]:
    """Start a Redis, and a fake vLLM behind slot 0."""
    directory = tmp_path_factory.mktemp("redis")
    redis = start_redis(directory, free_port())
    store = redis.store()
    base_port = free_ports(SLOTS)
    try:
        with serve_model(base_port) as vllm:
            yield ProxyEnvironment(directory, redis.port, redis.password, store, base_port, vllm)
    finally:
        store.close()
        redis.stop()


@pytest.fixture(scope="session")
def proxy(environment: ProxyEnvironment) -> Iterator[RunningProxy]:
    """Run the app, with the direct backend for everything."""
    with run_app(environment) as proxy:
        yield proxy
