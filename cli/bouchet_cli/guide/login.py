"""Steps up to the first login: the cluster, its alias in ~/.ssh/config, keys, the connection."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from bouchet_cli.client.env_edit import replace_file
from bouchet_cli.client.errors import CommandError

from .private_key import has_passphrase
from .step import HOST, PROJECT_DIR, SITE, GuideState, GuideStep

FIELD = re.compile(r"(?m)^(name|title|mfa|maintenance|find_project|key_passphrase): *(.*?)(?: +#.*)?$")
LOGIN_HOST = re.compile(r"(?m)^login: *\{host: *([^,}\s]+)")
OTHER = "another cluster"
SSH_TIMEOUT_S = 60
MAKE_A_KEY = (
    "run `ssh-keygen -t ed25519` (with a passphrase), upload the file that ends in .pub at your site, load the key "
    "with `ssh-add`, and run `bouchet setup` again"
)


def site_fields(path: Path) -> dict[str, str]:
    """Return name, title, host and a few texts of a site file, as they are written."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return {}
    found = {name: value.strip("\"'") for name, value in FIELD.findall(text)}
    host = LOGIN_HOST.search(text)
    return {**found, **({"host": host[1]} if host else {})}


# the demo's, which are no clusters to log in to
DEMO_SITES = ("demo", "demo-arm64")


def known_sites(folder: Path) -> dict[str, dict[str, str]]:
    """Return the site files of clusters by name, without the demo and catalogs."""
    paths = [path for path in sorted(folder.glob("*.yaml")) if "." not in path.stem and path.stem not in DEMO_SITES]
    return {path.stem: found for path in paths if (found := site_fields(path)).get("host")}


def resolved_host(alias: str, environment: dict[str, str]) -> str:
    """Return the host name that ssh makes of an alias. Raises CommandError where ssh refuses its configuration."""
    try:
        argv = ["ssh", "-G", alias]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=SSH_TIMEOUT_S, env=environment, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError as exc:
        raise CommandError("this machine has no ssh; install it (OpenSSH's client), and run this again") from exc
    if done.returncode:
        raise CommandError(f"ssh cannot use its configuration for {alias}: {done.stderr.strip()}")
    found = re.search(r"(?m)^hostname (\S+)$", done.stdout)
    return found[1] if found else alias


class ChooseCluster(GuideStep):
    """Which cluster, by a site file that exists or by an alias of ~/.ssh/config."""

    title = "choose the cluster"

    def is_done(self, state: GuideState) -> bool:
        """Return whether .env names a host, and the command line no other."""
        host = state.value(HOST)
        return bool(host) and state.given.get("cluster", host) == host

    def by_hand(self, state: GuideState) -> str:
        """Return the settings."""
        return "make env; then BOUCHET_HOST=<alias of ~/.ssh/config> and BOUCHET_SITE=<a file of sites/> in .env"

    def run(self, state: GuideState) -> None:
        """Ask for the cluster; for a known one make sure of its alias, for another ask for the alias."""
        sites = known_sites(state.sites)
        choices = [f"{name}: {found.get('title') or found['host']}" for name, found in sites.items()]
        answer = state.ask("cluster", "Your cluster, or the alias that you type after `ssh`", choices=choices)
        name = answer.partition(":")[0].strip()
        if name not in sites:
            self._save(state, _checked_alias(name), "")
            return
        host = sites[name]["host"]
        if resolved_host(name, dict(state.context.environment)) != host and "." in host:
            self._add_alias(state, name, host)
        self._save(state, name, name)
        for field, label in (("mfa", "its login also asks for"), ("maintenance", "closed")):
            if sites[name].get(field):
                state.context.screen.note(f"{label}: {sites[name][field]}")

    def _save(self, state: GuideState, host: str, site: str) -> None:
        """Save the choice; a directory on another cluster is none on this one."""
        other = {PROJECT_DIR: ""} if state.value(HOST) not in ("", host) else {}
        state.save(**{HOST: host, SITE: site, **other})

    def _add_alias(self, state: GuideState, alias: str, host: str) -> None:
        """Add a block to ~/.ssh/config, if the person agrees."""
        user = state.ask("user", f"Your user name on {host} (at Yale: the NetID)")
        block = f"\nHost {alias}\n  HostName {host}\n  User {user}\n  ServerAliveInterval 30\n"
        path = Path(state.context.environment.get("HOME") or Path.home()) / ".ssh" / "config"
        state.context.screen.note(f"~/.ssh/config has no `{alias}` that leads to {host}. This block would be added:")
        state.context.screen.show(block.strip("\n"))
        if not state.confirm(f"Add it to {path}?"):
            raise CommandError("nothing was written; add the block by hand, and run `bouchet setup` again")
        path.parent.mkdir(mode=0o700, exist_ok=True)
        before = path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else ""
        # in front: the first value of an option counts, and a `Host *` may be in the file
        replace_file(path, block.lstrip("\n") + (f"\n{before}" if before else ""))


def _checked_alias(alias: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", alias):
        raise CommandError(f"{alias!r} is not an alias or host name; the user name belongs into ~/.ssh/config")
    return alias


class CheckKeys(GuideStep):
    """A key that ssh can offer: in an agent, or a file."""

    title = "look for an SSH key"

    def is_done(self, state: GuideState) -> bool:
        """Return whether there is a key, and none that the site forbids."""
        return has_key(state) and not self._forbidden(state)

    def by_hand(self, state: GuideState) -> str:
        """Return the commands that make a key and load it."""
        return "ssh-keygen -t ed25519; upload ~/.ssh/id_ed25519.pub at the site; ssh-add"

    def run(self, state: GuideState) -> None:
        """Say what is missing; the login itself decides, since some sites take a password or a Kerberos ticket."""
        for path in self._forbidden(state):
            state.context.screen.warn(
                f"{state.value(SITE)} wants a passphrase on every key, and {path} has none; "
                f"`ssh-keygen -p -f {path}` sets one"
            )
        if not has_key(state):
            state.context.screen.note("there is no SSH key: the site has to take a password or a Kerberos ticket")

    def _forbidden(self, state: GuideState) -> list[Path]:
        """Return the key files without a passphrase, where the site wants one."""
        if site_fields(state.sites / f"{state.value(SITE)}.yaml").get("key_passphrase") != "required":
            return []
        return [path for path in key_files(state) if path.is_file() and has_passphrase(path) is False]


def has_key(state: GuideState) -> bool:
    """Return whether an agent has keys, or a usual key file exists or is named for the host."""
    return bool(agent_keys(state)) or any(path.is_file() for path in key_files(state))


def agent_keys(state: GuideState) -> list[str]:
    """Return the keys of the agent, none without an agent."""
    try:
        done = subprocess.run(
            ["ssh-add", "-l"], capture_output=True, text=True, timeout=SSH_TIMEOUT_S, check=False,
            env=dict(state.context.environment),
        )  # fmt: skip
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def key_files(state: GuideState) -> list[Path]:
    """Return the key files that ssh would try for the host."""
    home = Path(state.context.environment.get("HOME") or Path.home())
    done = subprocess.run(
        ["ssh", "-G", state.value(HOST)], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        timeout=SSH_TIMEOUT_S, env=dict(state.context.environment),
    )  # fmt: skip
    names = re.findall(r"(?m)^identityfile (.+)$", done.stdout)
    return [Path(re.sub(r"^~(?=/)", str(home), name)) for name in names]


class LogIn(GuideStep):
    """The first login: ssh itself asks for the host key, passwords and passcodes."""

    title = "log in, and ask Slurm about the cluster"

    def is_done(self, state: GuideState) -> bool:
        """Return whether this run has logged in."""
        return state.facts is not None

    def by_hand(self, state: GuideState) -> str:
        """Return the commands."""
        return f"ssh {state.value(HOST)} sinfo"

    def run(self, state: GuideState) -> None:
        """Log in and keep what the login node says."""
        try:
            facts = state.cluster()
        except CommandError as exc:
            wants_key = "(publickey" in str(exc) and not has_key(state)
            advice = f"; there is no SSH key: {MAKE_A_KEY}" if wants_key else ""
            raise CommandError(f"{exc}{advice}; for another cluster: `bouchet setup --cluster NAME`") from exc
        partitions = ", ".join(partition.name for partition in facts.gpu_partitions) or "none"
        state.context.screen.note(f"logged in as {facts.user}; {facts.version}; partitions with GPUs: {partitions}")
        if not facts.reaches_hub:
            state.context.screen.note("the login node does not reach huggingface.co: downloads may need a proxy")
