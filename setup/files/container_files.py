"""Files that setup writes for the containers: secrets, and copies of the ssh configuration; never a private key.

One secret per file, mode 0600 in a 0700 folder, owned by the containers' user. Private keys stay with the agent, whose
socket is mounted. Without an agent the key file itself is mounted, read-only.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from setup.command import try_run
from setup.docker.stack import SECRETS_GENERATION, Stack
from setup.errors import SetupError
from setup.progress import Progress

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


INSIDE = "/run/ssh"
AGENT_INSIDE = "/run/ssh-agent.sock"
KEYS_INSIDE = "/run/ssh-key"
DOCKER_DESKTOP_AGENT = "/run/host-services/ssh-auth.sock"
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


def agent_variables(settings: EnvSettings, stack: Stack, progress: Progress) -> dict[str, str]:
    """Return the variables of compose.cluster.yaml: paths of the files and of the agent's socket."""
    variables = {"BOUCHET_SSH_DIR": str(stack.ssh_dir)}
    if sys.platform == "darwin":  # Docker Desktop forwards the agent to this path of its VM, owned by root's group
        return variables | _agent(DOCKER_DESKTOP_AGENT) | {"BOUCHET_AGENT_GROUP": "0"}
    found = find_agent(first_host(settings), os.environ, stack)
    if found is None:
        return variables | _own_key(settings, progress)
    if os.getuid() == 0:
        progress.note(
            f"the ssh agent serves root alone, and containers run as {settings.uid}; run `make up` as an ordinary user"
        )
    write_private_file(_memory(stack), str(found), settings)
    return variables | _agent(str(found))


def find_agent(host: str, environ: Mapping[str, str], stack: Stack) -> Path | None:
    """Find a socket on which an agent listens: ssh's IdentityAgent for the host, else $SSH_AUTH_SOCK.

    The one in use is kept while it answers: another shell has another socket, and a changed mount would cost the
    gateway its connection, and the person a second factor.
    """
    memory = _memory(stack)
    candidates = [memory.read_text(encoding="utf-8")] if memory.is_file() else []
    candidates += [parse_identity_agent(try_run(["ssh", "-G", "--", host]) or "") if shutil.which("ssh") else ""]
    candidates += [environ.get("SSH_AUTH_SOCK", "")]
    return next((Path(name) for name in candidates if name and listens(Path(name).expanduser())), None)


def parse_identity_agent(text: str) -> str:
    """Parse the agent's path from `ssh -G`; empty if there is none."""
    for line in text.splitlines():
        word, _, value = line.partition(" ")
        if word.lower() == "identityagent" and value.lower() not in ("none", "ssh_auth_sock") and value[:1] in "/~":
            return value
    return ""


def listens(path: Path) -> bool:
    """Tell whether a program accepts connections on this socket."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(2)
            probe.connect(str(path))
    except OSError:
        return False
    return True


def _own_key(settings: EnvSettings, progress: Progress) -> dict[str, str]:
    """Mount the private key file that ssh would use, for people without an agent. It is never copied."""
    answer = try_run(["ssh", "-G", "--", first_host(settings)]) if shutil.which("ssh") else None
    key = find_key(answer or "")
    if key is None:
        progress.note(
            "no ssh agent answers, and there is no key file; start one "
            '(`eval "$(ssh-agent)"; ssh-add`) and run `make up` again'
        )
        return {}
    progress.note(f"no ssh agent answers: the gateway reads {key}, and asks for its passphrase once")
    return {"BOUCHET_KEY_FILE": str(key), "BOUCHET_KEY_INSIDE": f"{KEYS_INSIDE}/{key.name}"}


def find_key(text: str) -> Path | None:
    """Find the first identity file of `ssh -G` that exists."""
    names = [value for word, _, value in (line.partition(" ") for line in text.splitlines()) if word == "identityfile"]
    return next((path for name in names if (path := Path(name).expanduser()).is_file()), None)


def first_host(settings: EnvSettings) -> str:
    """Return the login node whose ssh settings apply to all of them."""
    return settings.host.split(",")[0].strip()


def _agent(path: str) -> dict[str, str]:
    return {"BOUCHET_AGENT_SOCKET": path, "BOUCHET_AGENT_INSIDE": AGENT_INSIDE}


def _memory(stack: Stack) -> Path:
    return stack.secrets_dir / "agent-socket"
