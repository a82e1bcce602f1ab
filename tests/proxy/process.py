"""`python -m tests.proxy.process`: the proxy's process as its container runs it, without LiteLLM."""

from __future__ import annotations

import os

from bouchet_proxy.__main__ import run
from bouchet_proxy.asgi import App, Receive, Scope, Send
from bouchet_proxy.settings import ProxySettings
from bouchet_proxy.upstream_request import Backend, UpstreamRequest


class NoBackend(Backend):
    """Takes LiteLLM's place where every request goes straight to vLLM."""

    async def send(self, request: UpstreamRequest, scope: Scope) -> None:
        """Refuse: nothing is sent here."""
        raise AssertionError("every request of this test is sent straight to vLLM")


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Complete startup and shutdown at once."""
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})


def mount(settings: ProxySettings) -> tuple[Backend, App]:
    """Load nothing."""
    return NoBackend(), lifespan


if __name__ == "__main__":
    run(ProxySettings.from_environment(os.environ), mount)
