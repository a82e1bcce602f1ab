"""Secret files for the containers: one secret a file, 0600 in a 0700 folder, owned by the containers' user."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from setup.docker.stack import SECRETS_GENERATION, Stack
from setup.errors import SetupError

from .env_file import EnvSettings

# file in /run/secrets -> key of the env file; one that is not there leaves an empty file
FILES = {
    "api_key": "BOUCHET_API_KEY",
    "redis_password": "REDIS_PASSWORD",
    "gateway_token": "GATEWAY_TOKEN",
    "serving_secret": "SERVING_SECRET",
    "hf_token": "HF_TOKEN",
}


def write_secret_files(stack: Stack, settings: EnvSettings) -> bool:
    """Write the secret files that differ from the env file; True if any changed.

    An unchanged file is not touched: a running container has its inode mounted.
    """
    directory = stack.secrets_dir
    try:
        make_private_dir(directory, settings)
        contents = {file: settings.values.get(key, "") for file, key in FILES.items()}
        changed = [write_private_file(directory / file, content, settings) for file, content in contents.items()]
        if any(changed) or not (directory / SECRETS_GENERATION).exists():
            write_private_file(directory / SECRETS_GENERATION, secrets.token_hex(8), settings)
    except OSError as exc:
        raise SetupError(f"cannot write {directory} ({exc.strerror}); remove it and run `make up` again") from exc
    return any(changed)


def make_private_dir(directory: Path, settings: EnvSettings) -> None:
    """Make a folder with mode 0700, owned by the containers' user."""
    directory.mkdir(mode=0o700, exist_ok=True)
    directory.chmod(0o700)
    _give(directory, settings)


def write_private_file(path: Path, content: str, settings: EnvSettings) -> bool:
    """Write a temporary file and rename it; False if the content is unchanged. Mode and owner are set in both cases."""
    if path.is_file() and path.read_text(encoding="utf-8") == content:
        path.chmod(0o600)
        _give(path, settings)
        return False
    if path.is_dir():  # a container engine makes a folder where a file to mount is not there
        path.rmdir()
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    _give(scratch, settings)
    scratch.replace(path)
    return True


def _give(path: Path, settings: EnvSettings) -> None:
    if os.getuid() == 0:
        os.chown(path, settings.uid, settings.gid)
