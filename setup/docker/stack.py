"""One stack: which files, names and folders belong to it. Several can live on one host (tests bring their own)."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from setup.errors import AlreadyRunningError, SetupError
from setup.files.env_file import EnvSettings

DEFAULT_PROJECT = "bouchet"
HOST_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
SECRETS_GENERATION = "generation"
# of compose.yaml: Prometheus
METRICS_PROFILE = "metrics"


@dataclass(frozen=True)
class Stack:
    """Where one stack lives. `overrides` are the variables of Compose files that the caller's environment set."""

    root: Path
    project: str
    env_file: Path
    overrides: Mapping[str, str]

    @property
    def state_name(self) -> str:
        """Suffix that keeps the files of several stacks apart."""
        return "" if self.project == DEFAULT_PROJECT else f"-{self.project}"

    @property
    def secrets_dir(self) -> Path:
        """Where the containers' secret files lie."""
        return self.root / f".secrets{self.state_name}"

    @property
    def cache_dir(self) -> Path:
        """Tools, staged files and locks; git-ignored, may be deleted while nothing runs."""
        return self.root / ".cache"

    @property
    def lock_file(self) -> Path:
        """Held while a make command works on this stack."""
        return self.cache_dir / f"stack{self.state_name}.lock"

    @property
    def ssh_dir(self) -> Path:
        """What the gateway may see of ~/.ssh."""
        return self.secrets_dir / "ssh"


def find_stack(root: Path, environ: Mapping[str, str]) -> Stack:
    """Return the stack that the environment names; the default one if it names none."""
    project = environ.get("COMPOSE_PROJECT_NAME") or DEFAULT_PROJECT
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", project):
        raise SetupError(f"COMPOSE_PROJECT_NAME is `{project}`; use lower-case letters, digits, - and _")
    files = ("BOUCHET_SITE_DIR", "BOUCHET_CATALOG_FILE", "BOUCHET_PINS_DIR")
    names = ("DEMO_SUBNET", *files, "BOUCHET_IMAGE_TAG", "BOUCHET_BASE_IMAGE")
    overrides = {name: environ[name] for name in names if environ.get(name)}
    return Stack(root, project, root / (environ.get("BOUCHET_ENV_FILE") or ".env"), overrides)


def ca_bundle(environ: Mapping[str, str]) -> Path:
    """Return the CA bundle that build steps trust: the host's, so that builds work behind an inspecting proxy too."""
    named = [environ.get(name, "") for name in ("BUILD_CA_BUNDLE", "PIP_CERT", "SSL_CERT_FILE")]
    for candidate in [*(Path(name) for name in named if name), HOST_BUNDLE]:
        if candidate.is_file() and os.access(candidate, os.R_OK):
            return candidate
    return Path("/dev/null")


def compose_environ(stack: Stack, settings: EnvSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the Compose files. No secret is among them: `docker inspect` would show it."""
    return {
        "COMPOSE_PROJECT_NAME": stack.project,
        "BOUCHET_UID": str(settings.uid),
        "BOUCHET_GID": str(settings.gid),
        "PROXY_PORT": str(settings.proxy_port),
        "API_PORT": str(settings.api_port),
        "BOUCHET_HOST": settings.host,
        "BOUCHET_SITE": settings.site,
        "BOUCHET_PROJECT_DIR": settings.values.get("BOUCHET_PROJECT_DIR", ""),
        "BOUCHET_SCRATCH_DIR": settings.values.get("BOUCHET_SCRATCH_DIR", ""),
        "MFA_AUTO": settings.values.get("MFA_AUTO", ""),
        "DIRECT": settings.values.get("DIRECT") or "on",
        "SSH_FAST_PATH": settings.values.get("SSH_FAST_PATH") or "on",
        "HOLD_STARTING_S": settings.values.get("HOLD_STARTING_S", ""),
        "HOLD_TUNNEL_S": settings.values.get("HOLD_TUNNEL_S", ""),
        "CONTINUE_ANSWERS": settings.values.get("CONTINUE_ANSWERS") or "on",
        "BROWSER_ORIGINS": settings.values.get("BROWSER_ORIGINS", ""),
        "WORKERS": settings.values.get("WORKERS") or "1",
        "NOTIFIERS": "1" if settings.notifies else "0",
        "NOTIFY_EVENTS": settings.values.get("NOTIFY_EVENTS", ""),
        "COMPOSE_PROFILES": METRICS_PROFILE if settings.has_metrics else "",
        "PROMETHEUS_PORT": str(settings.prometheus_port),
        "LOG_LEVEL": settings.values.get("LOG_LEVEL") or "INFO",
        "BOUCHET_SECRETS_DIR": str(stack.secrets_dir),
        "BOUCHET_SECRETS_GENERATION": read_generation(stack),
        "BUILD_CA_BUNDLE": str(ca_bundle(environ)),
        **stack.overrides,
    }


def read_generation(stack: Stack) -> str:
    """Return the random identifier that changes with the secrets, empty before there are any."""
    try:
        return (stack.secrets_dir / SECRETS_GENERATION).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


@contextmanager
def sole_use(stack: Stack) -> Iterator[None]:
    """Lock the stack, until this process ends; AlreadyRunningError if another make command works on it."""
    stack.cache_dir.mkdir(exist_ok=True)
    with stack.lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise AlreadyRunningError(stack.project) from exc
        yield
