"""What ssh does for a login node, asked of ssh itself (`ssh -G`), as the file that the gateway connects by.

Only ssh reads ssh_config(5) as ssh does, so no other parser of ours decides anything: for the host and each jump host
before it the resolved options are written down, with the public keys, certificates and known hosts that they name.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setup.docker.stack import Stack
from setup.errors import ClusterLoginError
from setup.progress import Progress

from .container_files import make_private_dir, stage_ssh_files, write_private_file
from .env_file import EnvSettings
from .kerberos import stage_tickets
from .ssh_identities import find_identities
from .ssh_jumps import ProxyCommandJump, jump_arguments, parse_proxy_command
from .ssh_known_hosts import read_known_hosts

RESOLVED_FILE = "resolved.json"
FORMAT = 1
MAX_HOPS = 8
SSH_TIMEOUT_S = 60
NO_VALUE = ("", "none")
DEFAULT_PORT = 22
METHODS = {
    "publickey": "pubkeyauthentication",
    "keyboard-interactive": "kbdinteractiveauthentication",
    "password": "passwordauthentication",
}
# compared with ssh's own defaults: only a person's choice is passed on
ALGORITHMS = {"host_key": "hostkeyalgorithms", "kex": "kexalgorithms", "mac": "macs"}


@dataclass(frozen=True)
class SshAnswer:
    """What `ssh -G` printed for a host: each option with its lines. alias: the host as it was asked for."""

    alias: str
    lines: Mapping[str, Sequence[str]]

    def get(self, option: str, default: str = "") -> str:
        """Return the option's first value; the default where it has none."""
        return next((value for value in self.lines.get(option, ()) if value.lower() not in NO_VALUE), default)

    def is_on(self, option: str) -> bool:
        """Return whether the option is not switched off."""
        return self.get(option, "yes").lower() not in ("no", "false")


# arguments of ssh, the host among them -> its answer
AskSsh = Callable[[Sequence[str]], SshAnswer]


def stage_login(stack: Stack, settings: EnvSettings, progress: Progress, config: Path | None = None) -> None:
    """Write what the gateway needs to log in: ssh's own answers, or copies of ~/.ssh where this machine has no ssh.

    Raises ClusterLoginError for a configuration that ssh refuses, or that needs a program which only this machine has.
    """
    resolved = stack.ssh_dir / RESOLVED_FILE
    if shutil.which("ssh") is None:
        progress.note(
            "this machine has no ssh: the gateway reads ~/.ssh/config itself, without Match, certificates of agents "
            "and other recent options; install ssh and run `make up` again for the same result as ssh's"
        )
        resolved.unlink(missing_ok=True)
        stage_ssh_files(stack, settings)
        return
    hosts = [host.strip() for host in settings.host.split(",") if host.strip()]
    document: dict[str, Any] = {"format": FORMAT, "hosts": resolve_hosts(hosts, make_ask(config), progress.note)}
    make_private_dir(stack.ssh_dir, settings)
    kept = (resolved, *stage_tickets(stack, settings, progress, document, os.environ))
    write_private_file(resolved, json.dumps(document, indent=1, sort_keys=True) + "\n", settings)
    for path in sorted(stack.ssh_dir.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        elif path not in kept:
            path.unlink()


def make_ask(config: Path | None = None) -> AskSsh:
    """Return a function that asks ssh. config: a file in place of the person's and the system's."""

    def ask(arguments: Sequence[str]) -> SshAnswer:
        chosen = ["-F", str(config)] if config and "-F" not in arguments else []
        argv = ["ssh", "-T", *chosen, "-G", *arguments]
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, errors="replace", timeout=SSH_TIMEOUT_S, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired as exc:
            raise ClusterLoginError(f"`ssh -G {arguments[-1]}` does not end: a `Match exec` may wait") from exc
        if done.returncode:
            words = "; ".join(line.strip() for line in done.stderr.splitlines() if line.strip())
            raise ClusterLoginError(
                f"ssh cannot use its configuration for {arguments[-1]}: {words}; `ssh {arguments[-1]}` says the same"
            )
        return SshAnswer(arguments[-1], parse_answer(done.stdout))

    return ask


def parse_answer(text: str) -> dict[str, list[str]]:
    """Parse what `ssh -G` prints: an option and its value on each line."""
    lines: dict[str, list[str]] = {}
    for line in text.splitlines():
        option, _, value = line.strip().partition(" ")
        lines.setdefault(option.lower(), []).append(value.strip())
    return lines


def resolve_hosts(hosts: Sequence[str], ask: AskSsh, note: Callable[[str], object]) -> dict[str, Any]:
    """Resolve each login node: the hops to it in the order of connecting, the login node itself last."""
    defaults = make_ask(Path(os.devnull))(["localhost"]) if hosts else None
    return {host: [describe_hop(hop, defaults, note) for hop in find_hops([host], ask)] for host in hosts}


@dataclass(frozen=True)
class Hop:
    """One host to log in to. address: where to connect to instead of its HostName and Port."""

    answer: SshAnswer
    address: tuple[str, int] | None = None


def find_hops(arguments: Sequence[str], ask: AskSsh, depth: int = 0) -> list[Hop]:
    """Find the hosts on the way, as ssh does: a jump host is a login of its own, with its own options."""
    answer = ask(arguments)
    if depth >= MAX_HOPS:
        raise ClusterLoginError(f"ssh's configuration leads over more than {MAX_HOPS} jump hosts to {answer.alias}")
    jumps, command = answer.get("proxyjump"), answer.get("proxycommand")
    if jumps:
        return [*find_hops(jump_arguments(jumps), ask, depth + 1), Hop(answer)]
    if not command:
        return [Hop(answer)]
    place = (answer.get("hostname", answer.alias), port_of(answer))
    found = parse_proxy_command(command, place, answer.alias, answer.get("user"))
    if isinstance(found, ProxyCommandJump):
        before = find_hops(found.arguments, ask, depth + 1) if found.arguments else []
        return [*before, Hop(answer, None if found.address == place else found.address)]
    raise ClusterLoginError(
        f"ssh reaches {answer.alias} through `ProxyCommand {command}`, and the gateway cannot do that: {found}"
    )


def port_of(answer: SshAnswer) -> int:
    """Return the port of a host."""
    number = answer.get("port")
    return int(number) if number.isdigit() else DEFAULT_PORT


def describe_hop(hop: Hop, defaults: SshAnswer | None, note: Callable[[str], object]) -> dict[str, Any]:
    """Describe a hop for the gateway."""
    answer = hop.answer
    host, port = answer.get("hostname", answer.alias), port_of(answer)
    tokens = token_values(answer, host, port)
    keys, certificates = find_identities(
        answer.lines.get("identityfile", ()), answer.lines.get("certificatefile", ()), tokens, note
    )
    interval = answer.get("serveraliveinterval", "0")
    return {
        "alias": answer.alias,
        "host": host,
        "port": port,
        "address": list(hop.address) if hop.address else None,
        "user": answer.get("user", tokens["u"]),
        "host_key_alias": answer.get("hostkeyalias") or None,
        "known_hosts": read_known_hosts(answer.lines, tokens, note),
        "accepts_new_host_keys": answer.get("stricthostkeychecking") in ("accept-new", "no", "false", "off"),
        "identities": keys,
        "certificates": certificates,
        "identities_only": answer.get("identitiesonly") == "yes",
        "agent": "none" not in (value.lower() for value in answer.lines.get("identityagent", ())),
        "methods": [name for name, option in METHODS.items() if answer.is_on(option)],
        "gssapi": answer.get("gssapiauthentication") == "yes",
        "gssapi_delegates": answer.get("gssapidelegatecredentials") == "yes",
        "preferred_methods": [name for name in answer.get("preferredauthentications").split(",") if name],
        "password_prompts": int(number) if (number := answer.get("numberofpasswordprompts")).isdigit() else 3,
        "address_family": answer.get("addressfamily", "any"),
        "bind_address": answer.get("bindaddress") or None,
        "server_alive_interval_s": int(interval) if interval.isdigit() else 0,
        "algorithms": chosen_algorithms(answer, defaults),
    }


def token_values(answer: SshAnswer, host: str, port: int) -> dict[str, str]:
    """Return the values of ssh's percent tokens for file names."""
    local = socket.gethostname()
    person = pwd.getpwuid(os.getuid())
    asked = answer.alias.rpartition("@")[2]
    alias, user, jump = answer.get("hostkeyalias"), answer.get("user", person.pw_name), answer.get("proxyjump")
    connection = f"{local}{host}{port}{user}{jump}".encode()
    return {
        "C": hashlib.sha1(connection, usedforsecurity=False).hexdigest(),
        # the name in known_hosts
        "H": alias or (host if port == DEFAULT_PORT else f"[{host}]:{port}"),
        "d": person.pw_dir,
        "h": host,
        "i": str(os.getuid()),
        "j": jump,
        "k": alias or asked,
        "L": local.split(".")[0],
        "l": local,
        "n": asked,
        "p": str(port),
        "r": user,
        "u": person.pw_name,
        "%": "%",
    }


def chosen_algorithms(answer: SshAnswer, defaults: SshAnswer | None) -> dict[str, list[str]]:
    """Return the lists of algorithms that differ from those of ssh without any configuration."""
    chosen = {}
    for name, option in ALGORITHMS.items():
        value = answer.get(option)
        if value and defaults is not None and value != defaults.get(option):
            chosen[name] = value.split(",")
    return chosen
