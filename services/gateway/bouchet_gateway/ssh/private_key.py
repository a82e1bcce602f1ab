"""The user's own key: in a mounted file, never copied, its passphrase asked for once; or in an ssh agent.

The unlocked key stays in this process's memory, so that a reconnect asks for no passphrase.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncssh
from bouchet_core.errors import ConfigurationError

from bouchet_gateway.errors import LoginRefusedError

from .prompts import PromptBroker

MAX_PASSPHRASES = 3
AGENT_TIMEOUT_S = 3.0
_WRONG_PASSPHRASE = re.compile("[Pp]assphrase|^Unable to decrypt")


class PrivateKeyFile:
    """One private key file. `path` None: there is none, the agent has the keys."""

    def __init__(self, path: Path | None, broker: PromptBroker) -> None:
        self._path, self._broker = path, broker
        self._key: asyncssh.SSHKey | None = None

    async def key(self) -> asyncssh.SSHKey | None:
        """Return the unlocked key; ask a person for its passphrase the first time.

        Raises PromptUnansweredError, LoginRefusedError after MAX_PASSPHRASES wrong ones, ConfigurationError for no key.
        """
        if self._path is None or self._key is not None:
            return self._key
        self._key = _read_key(self._path, None) or await self._unlock(self._path)
        return self._key

    async def _unlock(self, path: Path) -> asyncssh.SSHKey:
        self._broker.begin_login()
        for _ in range(MAX_PASSPHRASES):
            (passphrase,) = await self._broker.ask("", [(f"Passphrase for the key {path.name}: ", False)])
            if key := _read_key(path, passphrase):
                return key
        raise LoginRefusedError(
            f"{MAX_PASSPHRASES} wrong passphrases for {path.name}; run `bouchet tunnel --connect` to try again"
        )


def _read_key(path: Path, passphrase: str | None) -> asyncssh.SSHKey | None:
    """Read the key file; None when it needs another passphrase."""
    try:
        return asyncssh.read_private_key(str(path), passphrase)
    except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError) as exc:
        # asyncssh's error for a wrong passphrase depends on the file's format
        if isinstance(exc, asyncssh.KeyEncryptionError) or _WRONG_PASSPHRASE.search(str(exc)):
            return None
        raise ConfigurationError(path.name, f"is not a usable private key: {exc}") from exc
    except OSError as exc:
        raise ConfigurationError(path.name, f"cannot be read: {exc.strerror}") from exc


async def agent_problem(socket: str | None) -> str:
    """Return what is wrong with the ssh agent at that socket; empty when it has a key, or no socket is set."""
    if socket is None:
        return ""
    try:
        async with asyncio.timeout(AGENT_TIMEOUT_S), asyncssh.connect_agent(socket) as agent:
            keys = await agent.get_keys()
    except (OSError, TimeoutError, ValueError, asyncssh.Error) as exc:
        return f"the ssh agent does not answer ({exc or 'timeout'}): start one, run `ssh-add`, then `make up`"
    return "" if keys else "the ssh agent has no keys: run `ssh-add`, then `bouchet tunnel --connect`"
