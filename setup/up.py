"""`make up`: the order of things."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import demo
from .command import allow_again, end_all, run_together
from .docker import images
from .docker.base_images import ensure_base_image, ensure_base_source, ensure_chosen_base
from .docker.containers import check_ports, inspect_containers, wait_until_healthy
from .docker.engine import Compose, ask_cpu, ensure_engine, find_compose, with_files
from .docker.stack import METRICS_PROFILE, Stack, compose_environ, sole_use
from .errors import CommandFailedError, PortTakenError, SetupError
from .files.container_files import remove_shared_files, write_secret_files
from .files.env_file import ADDED, EnvSettings, add_missing_keys, ensure_env_file, read_env_file
from .files.kerberos import ticket_variables
from .files.ssh_access import SshAccess, access_variables, find_access
from .files.ssh_config import stage_login
from .http import HttpClient
from .progress import Progress
from .python.locks import note_commit

# the service of the profile `metrics`
PROMETHEUS = "prometheus"


def bring_up(stack: Stack, progress: Progress, *, with_model: bool = True) -> None:
    """Start everything, in order. Repeating it is safe and fast."""
    settings = provide_env_file(stack, progress)
    check_mounts(stack, settings)
    access = find_access(stack, settings, os.environ) if settings.host else SshAccess()
    with sole_use(stack):
        with progress.step("Docker engine") as step:
            step.title = f"Docker engine {ensure_engine(progress)}"
        settings = demo.with_site_for(settings, ask_cpu())
        check_ports(stack, settings)
        compose = prepare(stack, settings, progress, access)
        known = provide_images(stack, settings, progress, compose)
        start(stack, progress, compose)
        images.prune(known)
        if not settings.host:
            demo.install(progress, stack, compose)
    if with_model:
        finish(stack, settings, progress)


def provide_env_file(stack: Stack, progress: Progress) -> EnvSettings:
    """Make the env file if there is none, add the keys that an older version did not have, and read it."""
    if ensure_env_file(stack.env_file, stack.root / ".env.example", os.environ):
        progress.note(f"made {stack.env_file.name} with new keys (mode 0600); it is yours now and never overwritten")
    for name in add_missing_keys(stack.env_file):
        progress.note(f"added {name} to {stack.env_file.name}. {ADDED[name]}")
    return read_env_file(stack.env_file)


def check_mounts(stack: Stack, settings: EnvSettings) -> None:
    """Check that the containers' user may read the site file and the catalog."""
    sites = stack.root / stack.overrides.get("BOUCHET_SITE_DIR", "sites")
    site = sites / f"{settings.site}.yaml"
    if not site.is_file():
        names = sorted(path.stem for path in sites.glob("*.yaml") if "." not in path.stem)
        close = difflib.get_close_matches(settings.site, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names) or 'none'}"
        raise SetupError(f"BOUCHET_SITE={settings.site} in {stack.env_file}: there is no {site}; {hint}")
    check_directories(stack, settings, site)
    pins = stack.root / stack.overrides.get("BOUCHET_PINS_DIR", "apptainer/pins")
    catalog = stack.root / stack.overrides.get("BOUCHET_CATALOG_FILE", "models.yaml")
    for path in (*sites.glob("*.yaml"), *pins.glob("*/*"), catalog):
        if not path.is_file():
            raise SetupError(f"{path} is missing; `git checkout` brings it back")
        if os.getuid() != settings.uid and not path.stat().st_mode & 0o004:
            raise SetupError(f"the containers' user ({settings.uid}) may not read {path}; run `chmod a+r {path}`")


def check_directories(stack: Stack, settings: EnvSettings, site: Path) -> None:
    """Check that a site file with `{project}` has the person's own directory."""
    text = site.read_text(encoding="utf-8")
    if '"{project}/' not in text or settings.values.get("BOUCHET_PROJECT_DIR"):
        return
    found = re.search(r"(?m)^find_project: \"?(.*?)\"?$", text)
    raise SetupError(
        f"{site} keeps weights, images and logs in your own project directory: set BOUCHET_PROJECT_DIR in "
        f"{stack.env_file}" + (f" ({found[1]})" if found else "")
    )


def prepare(stack: Stack, settings: EnvSettings, progress: Progress, access: SshAccess) -> Compose:
    """Write the secret files, find Compose, and return the Compose of this stack."""
    write_secret_files(stack, settings)
    if remove_shared_files(stack):
        progress.note(
            "each service has a user of its own in Redis and a token of its own for the gateway; records stay"
        )
    program = find_compose(progress, stack)
    env = compose_environ(stack, settings, os.environ)
    files = [stack.root / "compose.yaml"]
    if settings.host:
        stage_login(stack, settings, progress)
        env |= access_variables(access, settings, stack, progress) | ticket_variables(stack)
        files.append(stack.root / "compose.cluster.yaml")
    else:
        files.append(stack.root / "demo" / "compose.yaml")
    return with_files(program, stack, files, env)


def provide_images(
    stack: Stack, settings: EnvSettings, progress: Progress, compose: Compose
) -> list[images.BuiltImage]:
    """Build the images, and fetch meanwhile what the demo's nodes need."""
    note_commit(stack.root)
    known: list[images.BuiltImage] = []
    ensure_base_source(progress, stack.root)
    jobs = [lambda: known.extend(build_images(stack, settings, progress, compose))]
    if not settings.host:
        jobs.append(lambda: demo.stage(progress, stack, compose))
    run_together(*jobs)
    return known


def build_images(stack: Stack, settings: EnvSettings, progress: Progress, compose: Compose) -> list[images.BuiltImage]:
    """Build the images whose inputs changed; return all that we build."""
    chosen = stack.overrides.get("BOUCHET_BASE_IMAGE")
    base = ensure_chosen_base(chosen) if chosen else ensure_base_image(progress, stack.root)
    inputs = images.SERVICE_INPUTS if settings.host else {**images.SERVICE_INPUTS, **images.DEMO_INPUTS}
    with progress.step("images") as step:
        known = images.find_images(compose, stack.root, inputs, base.layers)
        stale = images.reuse_known(images.find_stale(known))
        if stale:
            record = {"BOUCHET_BASE_DIGEST": base.record}
            try:
                images.build(step, replace(compose, env={**compose.env, **record}), stale)
            except CommandFailedError as exc:
                raise explain_failed_build(exc, stale) from exc
        step.title = f"images: {len(stale)} built, {len(known) - len(stale)} as they were"
    return known


def explain_failed_build(exc: CommandFailedError, stale: Sequence[images.BuiltImage]) -> SetupError:
    """Return the error to show: Prometheus is optional, and may be what cannot be had."""
    if PROMETHEUS not in [image.service for image in stale]:
        return exc
    return SetupError(
        f"{exc}\nIf it is the image of Prometheus that cannot be made here: without METRICS=on in .env all else "
        "starts, and a Prometheus of your own can use deploy/prometheus/"
    )


def start(stack: Stack, progress: Progress, compose: Compose) -> None:
    """Start the containers and wait until all are healthy. An interrupted first start is undone."""
    before = [container.service for container in inspect_containers(stack.project)]
    fresh = not before
    with progress.step("containers") as step:
        try:
            services = started_services(compose)
            if PROMETHEUS in before and PROMETHEUS not in services:
                # a service of a profile that is off is no orphan for Compose
                compose.run("--profile", METRICS_PROFILE, "rm", "--stop", "--force", PROMETHEUS)
            compose.run("--progress", "plain", "up", "--detach", "--no-build", "--remove-orphans", on_line=step.say)
            wait_until_healthy(compose, stack.project, step, services)
        except (KeyboardInterrupt, CommandFailedError) as exc:
            if fresh:
                undo(compose)
            taken = find_taken_port(exc, stack)
            if taken is not None:
                raise taken from exc
            raise
        step.title = f"containers: {len(services)} healthy"


def started_services(compose: Compose) -> list[str]:
    """Return the services that have a container: the notifier has none without a target."""
    services = compose.run("config", "--services").split()
    return [name for name in services if name != "notifier" or compose.env.get("NOTIFIERS") == "1"]


def undo(compose: Compose) -> None:
    """Remove the containers and networks of an incomplete start; volumes stay."""
    end_all()
    allow_again()
    compose.run("down", "--remove-orphans", "--timeout", "5")


def find_taken_port(exc: BaseException, stack: Stack) -> PortTakenError | None:
    """Return the error for a port that was taken between our check and the start, as if found before it."""
    words = ("port is already allocated", "address already in use")
    if not isinstance(exc, CommandFailedError) or not any(word in exc.output for word in words):
        return None
    settings = read_env_file(stack.env_file)
    ports = (
        (settings.proxy_port, "PROXY_PORT"),
        (settings.api_port, "API_PORT"),
        (settings.prometheus_port, "PROMETHEUS_PORT"),
    )
    return next((PortTakenError(port, name, stack.env_file) for port, name in ports if f":{port}" in exc.output), None)


def finish(stack: Stack, settings: EnvSettings, progress: Progress) -> None:
    """Show the first answer of the demo's model; on a real cluster, the next steps."""
    proxy = HttpClient(f"http://127.0.0.1:{settings.proxy_port}", settings.api_key)
    api = HttpClient(f"http://127.0.0.1:{settings.api_port}", settings.admin_key)
    if settings.host:
        print(render_next_steps(settings, proxy.url, api.url))
        return
    deployment = demo.ensure_deployment(progress, api)
    answer = demo.ask_model(progress, api, proxy, deployment)
    progress.close()
    curl = demo.render_curl(proxy.url, stack.env_file, deployment.alias)
    print(f"\nAsk it yourself:\n\n{curl}\n\nIts answer: {answer}\n")
    print(f"proxy {proxy.url}   api {api.url}   `./bouchet status` shows the rest", file=sys.stderr)
    print("for your own cluster: `./bouchet setup`", file=sys.stderr)


def render_next_steps(settings: EnvSettings, proxy_url: str, api_url: str) -> str:
    """Render what to do once the services are up."""
    return f"""
The services are up; {settings.host} has not been asked to log in yet. `./bouchet setup` goes on step by step, or:
  ./bouchet tunnel                   log in, and answer the second factor if there is one
  ./bouchet doctor                   check the site file, directories and limits
  ./bouchet image build PIN          build the container image (once)
  ./bouchet download MODEL           download a model
  ./bouchet launch MODEL             submit its job
proxy {proxy_url}   api {api_url}"""
