"""The proxy's tests: pure rules, then one contract for both ways that a request can take.

The contract runs against a real server on a free port, a real Redis and a small real vLLM look-alike. Its second half
(tests/proxy/litellm) needs the whole proxy, LiteLLM included: the built image, or an interpreter that has LiteLLM.

    BOUCHET_PROXY_IMAGE=bouchet/proxy:dev pytest tests/proxy
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

from tests.conftest import free_port, free_ports, start_redis
from tests.proxy.running import IMAGE_VARIABLE, SLOTS, Ground, start_fake

collect_ignore = [] if os.environ.get(IMAGE_VARIABLE) or importlib.util.find_spec("litellm") else ["litellm"]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A Redis, and a model behind slot 0."""
    directory = tmp_path_factory.mktemp("redis")
    redis = start_redis(directory, free_port())
    store = redis.store()
    base = free_ports(SLOTS)
    fake = start_fake(base)
    try:
        yield Ground(directory, redis.port, redis.password, store, base, fake)
    finally:
        store.close()
        fake.stop()
        redis.process.kill()
        redis.process.wait()
