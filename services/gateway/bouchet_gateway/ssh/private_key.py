"""The person's own key, where no agent holds it: mounted, never copied; its passphrase asked for once, kept nowhere.

The unlocked key stays in this process's memory, so that a reconnect asks for nothing.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncssh
from bouchet_core.errors import ConfigurationError

from bouchet_gateway.errors import LoginRefusedError

from .prompts import PromptBroker

TRIES = 3


AGENT_TIMEOUT_S = 3.0


class KeyFile:
    """One private key file. `path` None: there is none, the agent has the keys."""

    def __init__(self, path: Path | None, broker: PromptBroker) -> None:
        self._path, self._broker = path, broker
        self._key: asyncssh.SSHKey | None = None

    async def key(self) -> asyncssh.SSHKey | None:
        """The unlocked key; asks a person for the passphrase the first time.

        Raises PromptUnansweredError, LoginRefusedError after TRIES wrong passphrases, ConfigurationError for what is no key.
        """
        if self._path is None or self._key is not None:
            return self._key
        self._key = self._read(None) or await self._unlocked()
        return self._key

    async def _unlocked(self) -> asyncssh.SSHKey:
        assert self._path is not None
        self._broker.begin()
        for _ in range(TRIES):
            (passphrase,) = await self._broker.ask("", [(f"Passphrase for the key {self._path.name}: ", False)])
            if found := self._read(passphrase):
                return found
        raise LoginRefusedError(
            f"{TRIES} wrong passphrases for {self._path.name}; `bouchet tunnel --connect` asks again"
        )

    def _read(self, passphrase: str | None) -> asyncssh.SSHKey | None:
        """The key, None when it wants another passphrase."""
        assert self._path is not None
        try:
            return asyncssh.read_private_key(str(self._path), passphrase)
        except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError) as exc:
            if "assphrase" in str(exc) or isinstance(exc, asyncssh.KeyEncryptionError):
                return None
            raise ConfigurationError(self._path.name, f"is no private key that can be used: {exc}") from exc
        except OSError as exc:
            raise ConfigurationError(self._path.name, f"cannot be read: {exc.strerror}") from exc


async def agent_words(socket: str | None) -> str:
    """What is wrong with the agent at that socket, in words; nothing while it holds a key, or where none is set."""
    if socket is None:
        return ""
    try:
        async with asyncio.timeout(AGENT_TIMEOUT_S), asyncssh.connect_agent(socket) as agent:
            keys = await agent.get_keys()
    except (OSError, TimeoutError, ValueError, asyncssh.Error) as exc:
        return f"no ssh agent answers ({exc or 'in time'}): start one, `ssh-add`, then `make up`"
    return "" if keys else "the ssh agent holds no key: `ssh-add` gives it yours, then `bouchet tunnel --connect`"
