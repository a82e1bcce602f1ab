"""What the gateway logs in with: the person's ssh agent, whose socket is mounted, or a key file, mounted read-only.

A container's user may use only what it could use on this machine: an agent answers its owner alone, and a private key
is readable for its owner. Anything else is refused before anything is built, with what to do.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from setup.command import try_run
from setup.docker.stack import Stack
from setup.errors import ClusterLoginError
from setup.progress import Progress

from .container_files import make_private_dir, write_private_file
from .env_file import EnvSettings
from .ssh_config import SshAnswer, find_hops, make_ask, parse_answer, port_of, token_values
from .ssh_identities import expand_name, read_public_line

AGENT_OF_ENVIRONMENT = "SSH_AUTH_SOCK"
AGENT_INSIDE = "/run/ssh-agent.sock"
KEYS_INSIDE = "/run/ssh-key"
DOCKER_DESKTOP_AGENT = "/run/host-services/ssh-auth.sock"


@dataclass(frozen=True)
class SshAccess:
    """The agent's socket or the key file; neither if there is none yet. wanted: ssh offers keys to one of the hosts."""

    agent: Path | None = None
    key: Path | None = None
    wanted: bool = True


def find_access(stack: Stack, settings: EnvSettings, environ: Mapping[str, str]) -> SshAccess:
    """Find an agent or else a key file that the containers' user may use.

    ClusterLoginError if there are some, and it may use none of them.
    """
    if sys.platform == "darwin":  # Docker Desktop forwards the agent to this path of its VM, owned by root's group
        return SshAccess(agent=Path(DOCKER_DESKTOP_AGENT))
    if not offers_keys(settings):
        return SshAccess(wanted=False)
    config = ask_ssh(first_host(settings))
    agents = find_agents(config, environ, stack)
    agent = next((path for path in agents if is_owner(path, settings)), None)
    if agent is not None:
        return SshAccess(agent=agent)
    keys = find_keys(config)
    key = next((path for path in keys if may_read(path, settings)), None)
    if key is None and (agents or keys):
        raise ClusterLoginError(describe_refusal(agents, keys, settings.uid, os.getuid()))
    return SshAccess(key=key)


def offers_keys(settings: EnvSettings) -> bool:
    """Tell whether ssh would offer a key to a login node, or to a jump host before it.

    Raises ClusterLoginError for a configuration that ssh refuses.
    """
    if shutil.which("ssh") is None:
        return True
    hosts = [host.strip() for host in settings.host.split(",") if host.strip()]
    return any(_offers_keys(hop.answer) for host in hosts for hop in find_hops([host], make_ask()))


def _offers_keys(answer: SshAnswer) -> bool:
    preferred = answer.get("preferredauthentications", "publickey").split(",")
    return answer.is_on("pubkeyauthentication") and "publickey" in preferred


def find_agents(config: str, environ: Mapping[str, str], stack: Stack) -> list[Path]:
    """Find sockets on which an agent listens: the one of ssh's IdentityAgent, else the one in use and $SSH_AUTH_SOCK.

    The one in use is kept while it answers: another shell has another socket, and a changed mount would cost the
    gateway its connection, and the person a second factor.
    """
    memory = _memory(stack)
    candidates = [parse_identity_agent(config, environ)]
    if candidates == [AGENT_OF_ENVIRONMENT]:
        candidates = [memory.read_text(encoding="utf-8")] if memory.is_file() else []
        candidates += [environ.get("SSH_AUTH_SOCK", "")]
    paths = dict.fromkeys(Path(name).expanduser() for name in candidates if name)
    return [path for path in paths if listens(path)]


def find_keys(config: str) -> list[Path]:
    """Find the identity files of `ssh -G` that exist, in ssh's order."""
    answer = SshAnswer("", parse_answer(config))
    tokens = token_values(answer, answer.get("hostname"), port_of(answer))
    paths = [expand_name(name, tokens) for name in answer.lines.get("identityfile", ())]
    # a public key as IdentityFile chooses one of the agent's
    return [path for path in paths if path.is_file() and read_public_line(path) is None]


def is_owner(path: Path, settings: EnvSettings) -> bool:
    """Tell whether the containers' user owns a file; an agent refuses everybody else, and root is not in them."""
    return path.stat().st_uid == settings.uid


def may_read(path: Path, settings: EnvSettings) -> bool:
    """Tell whether the containers' user may read a file."""
    found = path.stat()
    if found.st_uid == settings.uid:
        return bool(found.st_mode & stat.S_IRUSR)
    return bool(found.st_mode & (stat.S_IRGRP if found.st_gid == settings.gid else stat.S_IROTH))


def describe_refusal(agents: Iterable[Path], keys: Iterable[Path], containers: int, person: int) -> str:
    """Describe what the containers' user may not use, and what to do about it."""
    found = [*(f"the ssh agent at {path}" for path in agents), *(f"the key {path}" for path in keys)]
    whose = f"the containers run as user {containers} and may use none of these: {', '.join(found)}"
    if person == 0:
        name = next(iter(keys), Path("~/.ssh/KEY"))
        return (
            f"{whose}. They belong to root, and no container runs as root: run `make up` as an ordinary user of the "
            f"group docker, or let the gateway read a key file: `chown {containers} {name}` (ssh still accepts it "
            "from root; IdentityFile in ~/.ssh/config names another one)"
        )
    if person == containers:
        return f"{whose}; check their owner and mode"
    return f"{whose}; set BOUCHET_UID={person} in .env (`id -u` prints it) and run `make up` again"


def access_variables(access: SshAccess, settings: EnvSettings, stack: Stack, progress: Progress) -> dict[str, str]:
    """Return the variables of compose.cluster.yaml: paths of the files, of the agent's socket or the key."""
    variables = {"BOUCHET_SSH_DIR": str(stack.ssh_dir)}
    if access.agent is not None:
        group = {"BOUCHET_AGENT_GROUP": "0"} if str(access.agent) == DOCKER_DESKTOP_AGENT else {}
        make_private_dir(stack.secrets_dir, settings)
        write_private_file(_memory(stack), str(access.agent), settings)
        return {
            **variables,
            **group,
            "BOUCHET_AGENT_SOCKET": str(access.agent),
            "BOUCHET_AGENT_INSIDE": AGENT_INSIDE,
        }
    if access.key is not None:
        progress.note(f"no ssh agent to use: the gateway reads {access.key}, and asks for its passphrase once")
        return {
            **variables,
            "BOUCHET_KEY_FILE": str(access.key),
            "BOUCHET_KEY_INSIDE": f"{KEYS_INSIDE}/{access.key.name}",
        }
    if access.wanted:
        progress.note(
            "no ssh agent answers, and there is no key file: the login has to take a password or a Kerberos ticket; "
            'for a key start an agent (`eval "$(ssh-agent)"; ssh-add`) and run `make up` again'
        )
    return variables


def ask_ssh(host: str) -> str:
    """Return what ssh's configuration says of a host, empty without ssh."""
    return (try_run(["ssh", "-G", "--", host]) or "") if shutil.which("ssh") else ""


def parse_identity_agent(text: str, environ: Mapping[str, str]) -> str:
    """Parse the agent's path from `ssh -G`, empty for none; AGENT_OF_ENVIRONMENT where that decides (ssh_config(5))."""
    value = next(iter(parse_answer(text).get("identityagent", ())), AGENT_OF_ENVIRONMENT)
    if value.lower() == "none":
        return ""
    if value.startswith("$") and not value.startswith("${"):
        return environ.get(value[1:], "")
    return value


def listens(path: Path) -> bool:
    """Tell whether a program accepts connections on this socket."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(2)
            probe.connect(str(path))
    except OSError:
        return False
    return True


def first_host(settings: EnvSettings) -> str:
    """Return the login node whose ssh settings apply to all of them."""
    return settings.host.split(",")[0].strip()


def _memory(stack: Stack) -> Path:
    return stack.secrets_dir / "agent-socket"
