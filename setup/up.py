"""`make up`: the order of things."""

from __future__ import annotations

import difflib
import os
import sys

from . import demo
from . import demo_launch as launch
from .command import allow_again, end_all
from .concurrency import run_together, sole_use
from .docker import images
from .docker.base_image import ensure_base_image, ensure_base_source
from .docker.compose import Compose, find_compose, with_files
from .docker.engine import ensure_engine
from .docker.health import inspect_containers, wait_until_healthy
from .docker.ports import check_ports
from .docker.stack import Stack, compose_environ
from .errors import CommandFailedError, PortTakenError, SetupError
from .files.env_file import Settings, ensure_env_file, read_env_file
from .files.secret_files import write_secret_files
from .files.ssh_files import agent_variables, stage_ssh_files
from .http import Door
from .progress import Progress
from .python.pins import note_commit


def bring_up(stack: Stack, progress: Progress, *, with_model: bool = True) -> None:
    """Everything, in order; safe to repeat, and then quick."""
    if ensure_env_file(stack.env_file, stack.root / ".env.example", os.environ):
        progress.note(f"made {stack.env_file.name} with new keys (mode 0600); it is yours now and never overwritten")
    settings = read_env_file(stack.env_file)
    check_mounts(stack, settings)
    with sole_use(stack):
        with progress.step("Docker engine") as step:
            step.title = f"Docker engine {ensure_engine(progress)}"
        check_ports(stack, settings)
        compose = prepare(stack, settings, progress)
        known = provide_images(stack, settings, progress, compose)
        start(stack, progress, compose)
        images.prune(known)
        if not settings.host:
            demo.install(progress, stack, compose)
    if with_model:
        finish(stack, settings, progress)


def check_mounts(stack: Stack, settings: Settings) -> None:
    """The site file and the catalog are there and the containers' user may read them."""
    sites = stack.root / stack.overrides.get("BOUCHET_SITE_DIR", "sites")
    site = sites / f"{settings.site}.yaml"
    if not site.is_file():
        names = sorted(path.stem for path in sites.glob("*.yaml") if "." not in path.stem)
        close = difflib.get_close_matches(settings.site, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names) or 'none'}"
        raise SetupError(f"BOUCHET_SITE={settings.site} in {stack.env_file}: there is no {site}; {hint}")
    pins = stack.root / stack.overrides.get("BOUCHET_PINS_DIR", "apptainer/pins")
    catalog = stack.root / stack.overrides.get("BOUCHET_CATALOG_FILE", "models.yaml")
    for path in (*sites.glob("*.yaml"), *pins.glob("*/*"), catalog):
        if not path.is_file():
            raise SetupError(f"{path} is missing; `git checkout` brings it back")
        if os.getuid() != settings.uid and not path.stat().st_mode & 0o004:
            raise SetupError(f"the containers' user ({settings.uid}) may not read {path}; run `chmod a+r {path}`")


def prepare(stack: Stack, settings: Settings, progress: Progress) -> Compose:
    """Secret files written, Compose found; the Compose of this stack."""
    write_secret_files(stack, settings)
    program = find_compose(progress, stack)
    env = compose_environ(stack, settings, os.environ)
    files = [stack.root / "compose.yaml"]
    if settings.host:
        stage_ssh_files(stack, settings)
        env |= agent_variables(settings, stack, progress)
        files.append(stack.root / "compose.cluster.yaml")
    else:
        files.append(stack.root / "demo" / "compose.yaml")
    return with_files(program, stack, files, env)


def provide_images(stack: Stack, settings: Settings, progress: Progress, compose: Compose) -> list[images.Image]:
    """Base image and builds; what the demo's nodes need is fetched meanwhile."""
    note_commit(stack.root)
    known: list[images.Image] = []
    ensure_base_source(progress, stack.root)
    jobs = [lambda: known.extend(build_images(stack, settings, progress, compose))]
    if not settings.host:
        jobs.append(lambda: demo.stage(progress, stack, compose))
    run_together(*jobs)
    return known


def build_images(stack: Stack, settings: Settings, progress: Progress, compose: Compose) -> list[images.Image]:
    """All that we build; those whose inputs changed are built now."""
    base = ensure_base_image(progress, stack.root)
    inputs = images.ROOM_INPUTS if settings.host else {**images.ROOM_INPUTS, **images.DEMO_INPUTS}
    with progress.step("images") as step:
        known = images.find_images(compose, stack.root, inputs, base)
        stale = images.find_stale(known)
        if stale:
            images.build(step, compose, stale)
        step.title = f"images: {len(stale)} built, {len(known) - len(stale)} as they were"
    return known


def start(stack: Stack, progress: Progress, compose: Compose) -> None:
    """Start what does not run and wait until all are healthy; a first start that is broken off is undone."""
    fresh = not inspect_containers(stack.project)
    with progress.step("containers") as step:
        try:
            services = compose.run("config", "--services").split()
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


def undo(compose: Compose) -> None:
    """Remove the containers and networks of a start that did not come to its end; volumes stay."""
    end_all()
    allow_again()
    compose.run("down", "--remove-orphans", "--timeout", "5")


def find_taken_port(exc: BaseException, stack: Stack) -> PortTakenError | None:
    """A port that was taken between our look and the start is the same sentence as before it."""
    words = ("port is already allocated", "address already in use")
    if not isinstance(exc, CommandFailedError) or not any(word in exc.output for word in words):
        return None
    settings = read_env_file(stack.env_file)
    ports = ((settings.proxy_port, "PROXY_PORT"), (settings.api_port, "API_PORT"))
    return next((PortTakenError(port, name, stack.env_file) for port, name in ports if f":{port}" in exc.output), None)


def finish(stack: Stack, settings: Settings, progress: Progress) -> None:
    """Demo: a ready model and its first answer. A real cluster: what to do next."""
    proxy = Door(f"http://127.0.0.1:{settings.proxy_port}", settings.api_key)
    api = Door(f"http://127.0.0.1:{settings.api_port}", settings.api_key)
    if settings.host:
        print(render_next_steps(settings, proxy.url, api.url))
        return
    deployment = launch.ensure_deployment(progress, api)
    answer = launch.ask_model(progress, api, proxy, deployment)
    progress.close()
    curl = launch.render_curl(proxy.url, stack.env_file, deployment.alias)
    print(f"\nAsk it yourself:\n\n{curl}\n\nIts answer: {answer}\n")
    print(f"proxy {proxy.url}   api {api.url}   `./bouchet status` shows the rest", file=sys.stderr)


def render_next_steps(settings: Settings, proxy_url: str, api_url: str) -> str:
    """What a person does once the services are up."""
    return f"""
The services are up; nothing was sent to {settings.host} yet but the connection's first hello.
  ./bouchet tunnel                   log in: answers the second factor if {settings.host} asks for one
  ./bouchet models                   what can be launched
  ./bouchet launch MODEL             ask Slurm for it
proxy {proxy_url}   api {api_url}"""
