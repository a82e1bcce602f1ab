"""The doctor's looks at this machine: engine, containers, files with keys, ports."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .client.errors import UnreachableError
from .client.http import Refused, Wire
from .client.settings import Settings
from .view.checks import Check

SERVICES = ("redis", "gateway", "worker", "api", "proxy")
ENGINE_TIMEOUT_S = 10.0
ANSWER_S = 5.0
VERSION_ARGV = ("docker", "version", "--format", "{{.Server.Version}}")
START = "`make up` starts the stack"


def engine_checks(environment: Mapping[str, str], project: str) -> Iterator[Check]:
    """The Docker engine, and this stack's containers in it."""
    if shutil.which("docker", path=environment.get("PATH")) is None:
        said = "there is no docker program on the PATH"
        yield Check("stack", "engine", "fail", said, "`make up` installs one where it can, and says how where not")
        return
    status, said = _run(VERSION_ARGV, environment)
    if status:
        yield Check("stack", "engine", "fail", said, _engine_fix(said))
        return
    yield Check("stack", "engine", "pass", f"Docker {said}")
    label = f"label=com.docker.compose.project={project}"
    status, listed = _run(("docker", "ps", "--all", "--filter", label, "--format", "{{json .}}"), environment)
    yield containers_check(listed, project) if not status else Check("stack", "containers", "unknown", listed)


def containers_check(listed: str, project: str) -> Check:
    """`docker ps` in JSON, a container a line. Pure."""
    seen = []
    for line in listed.splitlines():
        row = json.loads(line)
        labels = dict(label.partition("=")[::2] for label in str(row.get("Labels", "")).split(","))
        seen.append((labels.get("com.docker.compose.service", ""), str(row.get("Status", ""))))
    there = {service for service, _ in seen}
    missing = [service for service in SERVICES if service not in there]
    if missing:
        return Check("stack", "containers", "fail", f"{project} has no container {', '.join(missing)}", START)
    # of the demo cluster's some have no health to tell
    ill = [f"{name}: {status}" for name, status in seen if "(healthy)" not in status and name in SERVICES]
    ill += [f"{name}: {status}" for name, status in seen if "(unhealthy)" in status and name not in SERVICES]
    if ill:
        fix = "`make logs` says why; `make up` starts them anew"
        return Check("stack", "containers", "fail", "; ".join(ill), fix)
    return Check("stack", "containers", "pass", f"all {len(SERVICES)} of {project} are healthy")


def secrecy_check(files: Sequence[Path]) -> Check:
    """Whether files that hold keys are their owner's alone."""
    there = [path for path in files if path.exists()]
    loose = [path for path in there if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if loose:
        said = f"others may read {', '.join(map(str, loose))}"
        return Check("stack", "keys", "fail", said, f"chmod go= {' '.join(map(str, loose))}")
    if not there:
        return Check("stack", "keys", "fail", "there is no file with keys", "`make up` makes .env")
    return Check("stack", "keys", "pass", f"{len(there)} files, all of mode 0600")


def secret_files(env_file: Path, project_root: Path, project: str) -> list[Path]:
    """The env file, and what `make up` wrote from it for the containers."""
    folder = project_root / (".secrets" if project == "bouchet" else f".secrets-{project}")
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:  # of another user, so not for us to read: just as well
        inside = []
    return [env_file, *([folder] if folder.is_dir() else []), *inside]


def door_checks(settings: Settings) -> Iterator[Check]:
    """Whether api and proxy answer at their ports."""
    yield _door("api", settings.api_url, "/healthz", settings.key)
    yield _door("proxy", settings.proxy_url, "/health/liveliness", settings.key)


def _door(name: str, url: str, path: str, key: str) -> Check:
    try:
        Wire(url, key, ANSWER_S).ask("GET", path)
    except UnreachableError as exc:
        words, _, fix = str(exc).partition("; ")
        return Check("stack", name, "fail", words, fix)
    except Refused as exc:
        return Check("stack", name, "fail", f"{url} answers {exc.status}", "`make logs` says why")
    return Check("stack", name, "pass", f"answers at {url}")


def version_check(own: str, theirs: str) -> Check:
    """Whether this program and the api are of one version. Pure."""
    if own == theirs:
        return Check("stack", "version", "pass", f"{own}, like the api's")
    return Check("stack", "version", "warn", f"this is {own}, the api is {theirs}", "`make up` builds the stack anew")


def claude_check(found: bool) -> Check:
    """Whether Claude Code can be started. Pure."""
    if found:
        return Check("stack", "claude code", "pass", "is installed")
    fix = "`npm install -g @anthropic-ai/claude-code`, or use another client with `bouchet env`"
    return Check("stack", "claude code", "warn", "is not installed", fix)


def _run(argv: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=ENGINE_TIMEOUT_S, check=False, env=dict(environment)
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return 1, f"{argv[0]}: {exc}"
    return done.returncode, (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip()


def _engine_fix(said: str) -> str:
    if "permission denied" in said.lower():
        return "`sudo usermod -aG docker $USER`, then log in again"
    return "start the Docker engine; `make up` starts it where it can"
