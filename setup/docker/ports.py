"""Are the ports that we publish free, or ours already?"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping

from setup.command import run
from setup.errors import PortTakenError, SetupError
from setup.files.env_file import Settings

from .stack import Stack


def check_ports(stack: Stack, settings: Settings) -> None:
    """PortTakenError if another program holds the proxy's or the api's port; our own running stack may."""
    ours = published_ports(stack)
    wanted: Mapping[str, int] = {"PROXY_PORT": settings.proxy_port, "API_PORT": settings.api_port}
    for variable, port in wanted.items():
        if port not in ours and not is_free(port):
            raise PortTakenError(port, variable, stack.env_file)


def published_ports(stack: Stack) -> set[int]:
    """Host ports that containers of this stack publish now."""
    text = run(
        ["docker", "ps", "--filter", f"label=com.docker.compose.project={stack.project}", "--format", "{{.Ports}}"]
    )
    return parse_published(text)


def parse_published(text: str) -> set[int]:
    """4000 of `127.0.0.1:4000->4000/tcp, 8090/tcp`."""
    words = text.replace(",", " ").split()
    hosts = [word.split("->")[0] for word in words if "->" in word]
    return {int(host.rsplit(":", 1)[1]) for host in hosts if ":" in host and host.rsplit(":", 1)[1].isdigit()}


def is_free(port: int) -> bool:
    """Whether one could listen on 127.0.0.1 there; tried, because a scan of listeners misses other namespaces."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            if exc.errno == errno.EACCES:
                raise SetupError(f"port {port} needs root; choose one above 1023") from exc
            return False
    return True
