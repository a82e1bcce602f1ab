"""A second gateway's connection, of the test's own, to the demo's real sshd."""

from __future__ import annotations

import asyncio
import contextlib
import io
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from bouchet_core.tunnel import TunnelStatus
from bouchet_gateway.settings import SshSettings
from bouchet_gateway.ssh.prompts import PromptBroker
from bouchet_gateway.ssh.tunnel import Tunnel

from tests.stack.harness import SUBNET, Stack

LOGIN_NODE = f"{SUBNET}.11"
# the only one that the demo's Duo look-alike takes
PASSCODE = "1234567"


def key_of(stack: Stack, user: str, folder: Path) -> None:
    """Copy the demo user's own key to id_ed25519 in a folder."""
    name = "id_ed25519" if user == "researcher" else f"{user}_ed25519"
    packed, _ = stack.container("gateway").get_archive(f"/run/demo/gateway/{name}")
    with tarfile.open(fileobj=io.BytesIO(b"".join(packed))) as archive:
        member = archive.extractfile(name)
        assert member is not None
        path = folder / "id_ed25519"
        path.write_bytes(member.read())
        path.chmod(0o600)


@contextlib.asynccontextmanager
async def tunnel_as(
    stack: Stack,
    user: str,
    folder: Path,
    auto: str | None = None,
    patience_s: float = 20,
    on_change: Callable[[TunnelStatus], None] = lambda status: None,
    **changes: Any,
) -> AsyncIterator[tuple[Tunnel, PromptBroker]]:
    """Open a tunnel as that user from this machine, without known hosts.

    auto: MFA_AUTO; patience_s: how long a prompt waits; on_change: called with every status; changes: of its settings.
    """
    key_of(stack, user, folder)
    settings = SshSettings(hosts=(LOGIN_NODE,), ssh_dir=folder, data_dir=folder, user=user, port=22)
    tunnel = Tunnel(settings.model_copy(update=changes), patience_s, auto, on_change)
    life = asyncio.get_running_loop().create_task(tunnel.run())
    try:
        yield tunnel, tunnel.broker
    finally:
        life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await life


async def until(condition: Callable[[], bool], story: Callable[[], object], within_s: float = 60.0) -> None:
    for _ in range(int(within_s / 0.05)):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not so within {within_s} s: {story()}")


async def trust_the_host(stack: Stack, tunnel: Tunnel) -> None:
    """Accept the key that is shown, if it is the login node's."""
    await until(lambda: tunnel.status().host_key is not None, tunnel.status)
    shown = tunnel.status().host_key
    argv = ["ssh-keygen", "-lf", "/run/cluster-keys/host/login.pub"]
    real = await asyncio.to_thread(stack.on, "demo-login", argv)
    assert shown is not None and shown.fingerprint in real.stdout, (shown, real.output)
    tunnel.trust(shown.fingerprint)
