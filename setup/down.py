"""`make down`, `make remove`, `make clean`, `make logs`: what needs no env file to be right.

What is removed belongs to this stack, and another stack of this machine does not use it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Collection

from . import demo
from .command import run, try_run
from .docker.base_images import DEMO_NODE_NAME, NAME, find_base
from .docker.containers import inspect_containers, published_ports
from .docker.engine import Compose, ask_cpu, ask_version, find_compose, with_files
from .docker.images import ids_in_use, image_names, list_tags, spare_markers
from .docker.stack import METRICS_PROFILE, Stack, compose_environ, sole_use
from .errors import CommandFailedError, EnvFileError
from .files.env_file import read_env_file
from .http import HttpClient
from .progress import Progress, Step

LISTED_VOLUME = '{{.Name}} {{.Label "com.docker.compose.project"}} {{.Label "com.docker.compose.volume"}}'


def compose_of(stack: Stack, progress: Progress) -> Compose:
    """Return Compose for whatever exists, even if the env file is invalid: a typo must not keep a stack running."""
    try:
        settings = demo.with_site_for(read_env_file(stack.env_file), ask_cpu())
        env = compose_environ(stack, settings, os.environ)
    except EnvFileError:
        env = {"COMPOSE_PROJECT_NAME": stack.project, **stack.overrides}
    # a container that is no longer wanted is stopped, too
    env["COMPOSE_PROFILES"] = METRICS_PROFILE
    files = [stack.root / "compose.yaml", stack.root / "demo" / "compose.yaml"]
    return with_files(find_compose(progress, stack), stack, files, env)


def compose_prefix(stack: Stack, progress: Progress) -> str:
    """Render Compose's command line for scripts: `eval "$(python3 -m setup compose) ps"`."""
    compose = compose_of(stack, progress)
    variables = [f"{name}={value}" for name, value in compose.env.items()]
    return shlex.join(["env", *variables, *compose.prefix])


def take_down(stack: Stack, progress: Progress) -> None:
    """Stop and remove all containers; volumes stay, and so do the jobs on a real cluster."""
    if not _engine_answers(progress):
        return
    with sole_use(stack), progress.step("stopping") as step:
        _stop_demo_jobs(stack, step)
        compose_of(stack, progress).run("down", "--remove-orphans", on_line=step.say)


def _stop_demo_jobs(stack: Stack, step: Step) -> None:
    """Cancel the demo's jobs before its nodes stop: Slurm would take minutes to find them dead."""
    try:
        settings = read_env_file(stack.env_file)
    except EnvFileError:
        return
    if not settings.host and settings.api_port in published_ports(stack):
        step.say("cancelling the demo's jobs")
        demo.stop_all(HttpClient(f"http://127.0.0.1:{settings.api_port}", settings.admin_key))


def clean(stack: Stack, progress: Progress) -> None:
    """Remove volumes, images that we built, secret files and staged files too, except what another stack's
    containers use. The env file stays.
    """
    shared = False
    if _engine_answers(progress):
        with sole_use(stack), progress.step("removing containers, volumes and images"):
            compose = compose_of(stack, progress)
            _remove_volumes(compose, progress)
            remove_images(set(image_names(compose).values()))
            shared = any_stack_left()
    shutil.rmtree(stack.secrets_dir, ignore_errors=True)
    if not shared:  # the nodes of a demo cluster have it mounted
        shutil.rmtree(stack.cache_dir / "staging", ignore_errors=True)


def remove(stack: Stack, progress: Progress) -> None:
    """Remove this stack's containers, volumes and secret files; what stacks of this machine share stays."""
    if _engine_answers(progress):
        with sole_use(stack), progress.step("removing containers and volumes"):
            compose_of(stack, progress).run("down", "--remove-orphans", "--timeout", "5")
            remove_own_volumes(stack)
    shutil.rmtree(stack.secrets_dir, ignore_errors=True)
    stack.lock_file.unlink(missing_ok=True)


def remove_own_volumes(stack: Stack) -> None:
    """Remove the volumes that Compose made for this stack alone."""
    ours = parse_own_volumes(run(["docker", "volume", "ls", "--format", LISTED_VOLUME]), stack.project)
    if ours:
        run(["docker", "volume", "rm", *ours])


def parse_own_volumes(listing: str, project: str) -> list[str]:
    """Parse lines of NAME PROJECT VOLUME, and select the volumes named PROJECT_VOLUME for `project`.

    The label alone also marks a volume with a name of its own, which stacks share: it carries the project of whichever
    came first. The name alone also fits another stack: `bouchet_lab_data` begins with `bouchet_`.
    """
    rows = [words for line in listing.splitlines() if len(words := line.split()) == 3]
    return [name for name, owner, volume in rows if owner == project and name == f"{project}_{volume}"]


def any_stack_left() -> bool:
    """Tell whether any stack of this project has containers; each service is labelled with its secrets' generation."""
    return bool(run(["docker", "ps", "--all", "--quiet", "--filter", "label=bouchet.secrets"]).strip())


def remove_images(names: Collection[str]) -> None:
    """Remove the images of these names with their input tags, and the bases made here, unless another stack has them.

    The engine itself would only keep an image in use, not its names: the other stack's next `make up` would build all
    of them again and replace its containers. This stack's own containers must be gone.
    """
    in_use = ids_in_use()
    tags = list_tags()
    for name in [name for name in names if name in tags and tags[name] not in in_use]:
        if try_run(["docker", "image", "rm", name]) is not None:
            del tags[name]
    for name in spare_markers(tags, {name.rsplit(":", 1)[0] for name in names}, in_use):
        try_run(["docker", "image", "rm", name])
    if not any_stack_left():
        for name in (NAME, DEMO_NODE_NAME):
            _remove_base(name)


def _remove_base(name: str) -> None:
    base = find_base(name)
    if base is not None and not base.digest:  # not pulled, so made here
        try_run(["docker", "image", "rm", name])


def _remove_volumes(compose: Compose, progress: Progress) -> None:
    try:
        compose.run("down", "--volumes", "--remove-orphans")
    except CommandFailedError as exc:
        if "volume is in use" not in exc.output:
            raise
        progress.note("a volume stays: another stack on this machine uses it")


def print_status(stack: Stack, progress: Progress) -> None:
    """Print one line per container, and what their images were built from."""
    if not _engine_answers(progress):
        return
    containers = sorted(inspect_containers(stack.project), key=lambda container: container.service)
    for container in containers:
        print(f"{container.service:<16} {container.status:<10} {container.health}")
    for base in sorted({container.base for container in containers if container.base}):
        print(f"base image       {base}")
    if not containers:
        print(f"no container of the stack `{stack.project}`; `make up` starts them")


def follow_logs(stack: Stack, progress: Progress) -> None:
    """Follow the output of the containers until Ctrl-C."""
    if not _engine_answers(progress):
        return
    compose = compose_of(stack, progress)
    progress.close()
    subprocess.run(
        [*compose.prefix, "logs", "--follow", "--tail", "50"], env={**os.environ, **compose.env}, check=False
    )


def _engine_answers(progress: Progress) -> bool:
    answers = ask_version() is not None
    if not answers:
        progress.note("no Docker engine answers, so nothing of this project runs")
    return answers
