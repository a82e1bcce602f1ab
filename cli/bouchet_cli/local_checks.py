"""The doctor's checks of this machine: Docker, containers, secret files, ports, Claude Code; and their result."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .client.errors import UnreachableError
from .client.http import HttpStatusError, Json, ServiceClient
from .client.settings import CliSettings, without_admin_key

SERVICES = ("redis", "gateway", "worker", "api", "proxy")
# it has a container only where NOTIFY_URLS names a target
NOTIFIER = "notifier"
ENGINE_TIMEOUT_S = 10.0
SERVICE_TIMEOUT_S = 5.0
VERSION_ARGV = ("docker", "version", "--format", "{{.Server.Version}}")
INSTALL_CLAUDE = "`npm install -g @anthropic-ai/claude-code`, or use another client with `bouchet env`"


@dataclass(frozen=True)
class CheckResult:
    """The result of one check. verdict: pass, warn, fail or unknown (could not be checked)."""

    area: str
    name: str
    verdict: str
    message: str
    fix: str = ""

    @classmethod
    def from_json(cls, raw: Json) -> CheckResult:
        """Parse one element of GET /v1/doctor's `checks`."""
        return cls(raw["area"], raw["name"], raw["verdict"], raw["message"], raw.get("fix") or "")


def engine_checks(environment: Mapping[str, str], project: str) -> Iterator[CheckResult]:
    """Check the Docker engine, and the containers of this stack."""
    if shutil.which("docker", path=environment.get("PATH")) is None:
        fix = "`make up` installs Docker where it can, and explains how where it cannot"
        yield CheckResult("stack", "engine", "fail", "docker is not on the PATH", fix)
        return
    status, output = _run(VERSION_ARGV, environment)
    if status:
        yield CheckResult("stack", "engine", "fail", output, _engine_fix(output))
        return
    yield CheckResult("stack", "engine", "pass", f"Docker {output}")
    label = f"label=com.docker.compose.project={project}"
    status, output = _run(("docker", "ps", "--all", "--filter", label, "--format", "{{json .}}"), environment)
    yield containers_check(output, project) if not status else CheckResult("stack", "containers", "unknown", output)


def containers_check(output: str, project: str) -> CheckResult:
    """Judge the output of `docker ps` in JSON, one container a line. Pure."""
    containers = []
    for line in output.splitlines():
        row = json.loads(line)
        labels = dict(label.partition("=")[::2] for label in str(row.get("Labels", "")).split(","))
        containers.append((labels.get("com.docker.compose.service", ""), str(row.get("Status", ""))))
    found = {service for service, _ in containers}
    missing = [service for service in SERVICES if service not in found]
    if missing:
        message = f"project {project}: missing containers: {', '.join(missing)}"
        return CheckResult("stack", "containers", "fail", message, "start the stack with `make up`")
    # some containers of the demo cluster have no health check
    checked = (*SERVICES, NOTIFIER)
    bad = [f"{name}: {status}" for name, status in containers if "(healthy)" not in status and name in checked]
    bad += [f"{name}: {status}" for name, status in containers if "(unhealthy)" in status and name not in checked]
    if bad:
        fix = "see `make logs`; restart the stack with `make up`"
        return CheckResult("stack", "containers", "fail", "; ".join(bad), fix)
    count = len(found.intersection(checked))
    return CheckResult("stack", "containers", "pass", f"all {count} services of {project} are healthy")


def secret_files_check(files: Sequence[Path]) -> CheckResult:
    """Check that only the owner can read the files that hold keys."""
    existing = [path for path in files if path.exists()]
    readable = [path for path in existing if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if readable:
        names = " ".join(map(str, readable))
        return CheckResult("stack", "keys", "fail", f"other users can read {names}", f"`chmod go= {names}`")
    if not existing:
        return CheckResult("stack", "keys", "fail", "there is no file with keys", "`make up` creates .env")
    return CheckResult("stack", "keys", "pass", f"{len(existing)} files, readable only by you")


def secret_files(env_file: Path, project_root: Path, project: str) -> list[Path]:
    """Return the env file, and the files that `make up` wrote from it for the containers."""
    folder = project_root / (".secrets" if project == "bouchet" else f".secrets-{project}")
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:  # another user's folder, which we may not read
        inside = []
    return [env_file, *([folder] if folder.is_dir() else []), *inside]


def service_checks(settings: CliSettings) -> Iterator[CheckResult]:
    """Check that API and proxy answer on their ports. The API comes first."""
    yield _service_check("api", settings.api_url, "/healthz", settings.admin_key)
    yield _service_check("proxy", settings.proxy_url, "/health/liveliness", settings.key)


def _service_check(name: str, url: str, path: str, key: str) -> CheckResult:
    try:
        ServiceClient(url, key, SERVICE_TIMEOUT_S).request("GET", path)
    except UnreachableError as exc:
        message, _, fix = str(exc).partition("; ")
        return CheckResult("stack", name, "fail", message, fix)
    except HttpStatusError as exc:
        return CheckResult("stack", name, "fail", str(exc), "see `make logs`")
    return CheckResult("stack", name, "pass", f"answers at {url}")


def version_check(own: str, api: str) -> CheckResult:
    """Compare the versions of this command and the API. Pure."""
    if own == api:
        return CheckResult("stack", "version", "pass", f"{own}, same as the API")
    fix = "rebuild the stack with `make up`"
    return CheckResult("stack", "version", "warn", f"this command is {own}, the API is {api}", fix)


def claude_check(*, installed: bool) -> CheckResult:
    """Report whether Claude Code is installed. Pure."""
    if installed:
        return CheckResult("stack", "claude code", "pass", "installed")
    return CheckResult("stack", "claude code", "warn", "not installed", INSTALL_CLAUDE)


def _run(argv: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=ENGINE_TIMEOUT_S,
            check=False,
            env=without_admin_key(environment),
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return 1, f"{argv[0]}: {exc}"
    return done.returncode, (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip()


def _engine_fix(output: str) -> str:
    if "permission denied" in output.lower():
        return "`sudo usermod -aG docker $USER`, then log in again"
    return "start the Docker engine; `make up` starts it where it can"
