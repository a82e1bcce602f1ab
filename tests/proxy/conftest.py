"""The proxy's tests: pure rules, then one contract for both ways that a request can take.

The contract runs against a real server on a free port, a real Redis and a small real vLLM look-alike. What needs
LiteLLM lies in tests/proxy/litellm and is left out where LiteLLM is not installed; the proxy's test image has it:

    docker build --target test -f services/proxy/Dockerfile -t bouchet/proxy:test .
    docker run --rm -v "$PWD:/src:ro" -w /src bouchet/proxy:test
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from tests.conftest import free_port, start_redis
from tests.proxy.running import Ground, start_fake

collect_ignore = [] if importlib.util.find_spec("litellm") else ["litellm"]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A Redis, and a model behind slot 0 whose deployment is ready."""
    directory = tmp_path_factory.mktemp("redis")
    redis = start_redis(directory, free_port())
    store = redis.store()
    base = free_port()
    fake = start_fake(base)
    try:
        yield Ground(directory, redis.port, redis.password, store, base, fake)
    finally:
        store.close()
        fake.stop()
        redis.process.kill()
        redis.process.wait()
