"""Files that setup writes for the containers: secrets, and copies of the ssh configuration; never a private key.

One secret per file, mode 0600 in a 0700 folder, owned by the containers' user.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from setup.docker.stack import SECRETS_GENERATION, Stack
from setup.errors import SetupError

from .env_file import EnvSettings
from .redis_acl import USERS, render_acl

# file -> key of the env file; one that is not there leaves an empty file
FILES = {
    "admin_key": "BOUCHET_ADMIN_KEY",
    "api_key": "BOUCHET_API_KEY",
    "serving_secret": "SERVING_SECRET",
    "hf_token": "HF_TOKEN",
    "db_url": "BOUCHET_DB_URL",
    "notify_urls": "NOTIFY_URLS",
}
# Each service has a password and a token of its own, derived from REDIS_PASSWORD and GATEWAY_TOKEN, which no container
# has: whoever holds one of them learns no other.
REDIS_FILES = {user: f"redis_{user}" for user in USERS}
GATEWAY_FILES = {role: f"gateway_token_{role}" for role in ("api", "worker")}
# files of earlier versions, of secrets that all services shared
SHARED_FILES = ("redis_password", "gateway_token")


def secret_contents(values: Mapping[str, str]) -> dict[str, str]:
    """Return the content of every secret file, by its name."""
    passwords = {user: derive(values["REDIS_PASSWORD"], f"user {user} of Redis") for user in USERS}
    return {
        **{file: values.get(key, "") for file, key in FILES.items()},
        **{file: passwords[user] for user, file in REDIS_FILES.items()},
        **{file: derive(values["GATEWAY_TOKEN"], f"token of the {role}") for role, file in GATEWAY_FILES.items()},
        # the dashboard chats with it; the proxy derives it, too
        "chat_key": derive(values["BOUCHET_API_KEY"], "chat of the dashboard"),
        # each opens /metrics of a service and nothing else, for Prometheus
        "metrics_key": derive(values["BOUCHET_ADMIN_KEY"], "metrics of a service"),
        "proxy_metrics_key": derive(values["BOUCHET_API_KEY"], "metrics of a service"),
        # the API seals the keys of attached servers with it; worker and proxy derive it, too
        "attach_secret": derive(values["SERVING_SECRET"], "keys of attached servers"),
        "redis_acl": render_acl(passwords),
    }


def derive(secret: str, purpose: str) -> str:
    """Derive 64 hex characters from a secret, others for each purpose."""
    return hmac.new(secret.encode(), purpose.encode(), hashlib.sha256).hexdigest()


def remove_shared_files(stack: Stack) -> bool:
    """Remove the secrets of earlier versions that all services shared; True if there were any."""
    shared = [path for name in SHARED_FILES if (path := stack.secrets_dir / name).is_file()]
    for path in shared:
        path.unlink()
    return bool(shared)


def write_secret_files(stack: Stack, settings: EnvSettings) -> bool:
    """Write the secret files that differ from the env file; True if any changed.

    An unchanged file is not touched: a running container has its inode mounted.
    """
    directory = stack.secrets_dir
    try:
        make_private_dir(directory, settings)
        contents = secret_contents(settings.values)
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


def write_private_file(path: Path, content: str | bytes, settings: EnvSettings) -> bool:
    """Write a temporary file and rename it; False if the content is unchanged. Mode and owner are set in both cases."""
    data = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == data:
        path.chmod(0o600)
        _give(path, settings)
        return False
    if path.is_dir():  # a container engine makes a folder where a file to mount is not there
        path.rmdir()
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    _give(scratch, settings)
    scratch.replace(path)
    return True


def _give(path: Path, settings: EnvSettings) -> None:
    if os.getuid() == 0:
        os.chown(path, settings.uid, settings.gid)


INSIDE = "/run/ssh"
NAMES = ("config", "known_hosts*", "*.pub")
# Paths of this machine that mean nothing in the container: the agent is mounted elsewhere, keys are not there.
DROPPED = re.compile(r"\s*(identityagent|controlpath|controlmaster|controlpersist|pkcs11provider)\b", re.IGNORECASE)
INCLUDE = re.compile(r"(\s*include\s+)(.*)", re.IGNORECASE)


def stage_ssh_files(stack: Stack, settings: EnvSettings, home: Path | None = None) -> None:
    """Copy the allowed files into the stack's ssh folder, and remove there what is gone from ~/.ssh."""
    source = (home or Path.home()) / ".ssh"
    make_private_dir(stack.ssh_dir, settings)
    wanted = find_files(source)
    for path in wanted:
        relative = path.relative_to(source)
        for parent in list(reversed(relative.parents))[1:]:
            make_private_dir(stack.ssh_dir / parent, settings)
        text = path.read_text(encoding="utf-8", errors="replace")
        is_config = not path.match("*.pub") and not path.name.startswith("known_hosts")
        write_private_file(stack.ssh_dir / relative, localize(text, source) if is_config else text, settings)
    kept = {stack.ssh_dir / path.relative_to(source) for path in wanted}
    for path in stack.ssh_dir.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()


def find_files(source: Path) -> list[Path]:
    """Find config, what it includes from the same folder, known hosts, and public keys."""
    found = {path for pattern in NAMES for path in source.glob(pattern) if path.is_file()}
    queue = [path for path in found if path.name == "config"]
    while queue:
        text = queue.pop().read_text(encoding="utf-8", errors="replace")
        for path in _included(text, source):
            if path not in found and "PRIVATE KEY" not in path.read_text(encoding="utf-8", errors="replace"):
                found.add(path)
                queue.append(path)
    return sorted(found)


def _included(text: str, source: Path) -> list[Path]:
    patterns = [word for line in text.splitlines() if (match := INCLUDE.match(line)) for word in match[2].split()]
    relative = [_inside(pattern, source).removeprefix(f"{INSIDE}/") for pattern in patterns]
    return [path for name in relative if not name.startswith("/") for path in source.glob(name) if path.is_file()]


def localize(text: str, source: Path) -> str:
    """Rewrite the configuration for the container, where ~/.ssh is /run/ssh."""
    lines: list[str] = []
    for line in text.splitlines():
        if DROPPED.match(line):
            continue
        include = INCLUDE.match(line)
        if include:
            line = include[1] + " ".join(_inside(word, source) for word in include[2].split())
        lines.append(_replace_home(line, source))
    return "\n".join(lines) + "\n"


def _inside(pattern: str, source: Path) -> str:
    """Translate a name of Include; ssh reads relative ones as relative to ~/.ssh."""
    replaced = _replace_home(pattern.strip('"'), source)
    return replaced if replaced.startswith(("/", "~")) else f"{INSIDE}/{replaced}"


def _replace_home(text: str, source: Path) -> str:
    for prefix in ("~/.ssh/", "%d/.ssh/", "${HOME}/.ssh/", f"{source}/"):
        text = text.replace(prefix, f"{INSIDE}/")
    return text
