"""The person's own key, where no agent holds it: mounted, never copied; its passphrase asked for once, kept nowhere.

The unlocked key stays in this process's memory, so that a reconnect asks for nothing.
"""

from __future__ import annotations

from pathlib import Path

import asyncssh
from bouchet_core.errors import ConfigurationError

from .failures import LoginRefused
from .mfa import PromptDesk

TRIES = 3


class KeyFile:
    """One private key file. `path` None: there is none, the agent has the keys."""

    def __init__(self, path: Path | None, desk: PromptDesk) -> None:
        self._path, self._desk = path, desk
        self._key: asyncssh.SSHKey | None = None

    async def key(self) -> asyncssh.SSHKey | None:
        """The unlocked key; asks a person for the passphrase the first time.

        Raises PromptUnanswered, LoginRefused after TRIES wrong passphrases, ConfigurationError for what is no key.
        """
        if self._path is None or self._key is not None:
            return self._key
        self._key = self._read(None) or await self._unlocked()
        return self._key

    async def _unlocked(self) -> asyncssh.SSHKey:
        assert self._path is not None
        self._desk.begin()
        for _ in range(TRIES):
            (passphrase,) = await self._desk.ask("", [(f"Passphrase for the key {self._path.name}: ", False)])
            if found := self._read(passphrase):
                return found
        raise LoginRefused(f"{TRIES} wrong passphrases for {self._path.name}; `bouchet tunnel --connect` asks again")

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
