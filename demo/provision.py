"""Sets the demo cluster up: `python3 -m demo.provision stage`, then, with its containers up, `install`.

Both are safe to repeat and quick when there is nothing to do. Environment:

    COMPOSE       Compose's command line without the verb, quoted as for a shell (`docker compose -p NAME -f ...`)
    DEMO_STAGING  the staging folder, if it is not .cache/staging in the repository; compose.yaml reads it too
    DEMO_CPU      the nodes' CPU type, that of the containers' engine: x86_64 (default) or aarch64
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .commands import ProvisionError, run, step
from .staging import DEMO_MODELS, IMAGES, PINS, PLUGIN_FILES, PLUGINS, STAGING, DemoLayout, DemoModel, stage

DEFAULT_COMPOSE = "docker compose -f compose.yaml -f demo/compose.yaml"
PARTITION = "day"
USER = "researcher"
ASK_TIMEOUT_S = 60
JOB_TIMEOUT_S = 1800
MADE_FROM = ".made-from"

# Run on the login node: the beginning of each file named, as JSON; null for those that are not there.
READ_FILES = """
import json, os, sys
read = lambda path: open(path, errors="replace").read(9999) if os.path.isfile(path) else None
print(json.dumps({path: read(path) for path in sys.argv[1:]}))
"""

Contents = dict[str, str | None]


@dataclass(frozen=True)
class DemoCluster:
    """The way in: Compose's command line up to and without the verb."""

    compose: Sequence[str]

    def ask(self, argv: Sequence[str], timeout_s: float = ASK_TIMEOUT_S) -> str:
        """Run a command on the login node and return its output."""
        return run([*self.compose, "exec", "-T", "-u", USER, "demo-login", *argv], timeout_s=timeout_s)

    def read(self, paths: Sequence[PurePosixPath]) -> Contents:
        """Read the beginnings of files with one command."""
        contents: Contents = json.loads(self.ask(["python3", "-c", READ_FILES, *map(str, paths)]))
        return contents

    def run_job(self, script: PurePosixPath, *arguments: object) -> None:
        """Submit a job and wait for it; ProgramFailedError with the end of its log."""
        argv = [str(STAGING / "jobs/run_job.sh"), PARTITION, str(script), *map(str, arguments)]
        self.ask(argv, timeout_s=JOB_TIMEOUT_S)


def install(layout: DemoLayout, cluster: DemoCluster) -> None:
    """Make what is missing or was made from something else."""
    marks = [model.folder / MADE_FROM for model in DEMO_MODELS]
    plugins = [PLUGINS / name for name in PLUGIN_FILES]
    found = cluster.read([layout.image, layout.manifest, *marks, *plugins])
    if not image_is_current(found, layout):
        with step(f"build the image {layout.pin_name}"):
            cluster.run_job(STAGING / layout.pin_name / "build.sh", STAGING / layout.pin_name, IMAGES)
    stale = [model for model in DEMO_MODELS if not model_is_current(found, model, layout.model_recipe(model))]
    with ThreadPoolExecutor(len(DEMO_MODELS)) as pool:
        list(pool.map(lambda model: make_model(layout, cluster, model), stale))
    if not plugins_are_current(found, layout):
        install_plugins(cluster)


def image_is_current(found: Contents, layout: DemoLayout) -> bool:
    manifest = found[str(layout.manifest)] or ""
    return found[str(layout.image)] is not None and f'"recipe_sha256": "{layout.image_recipe()}"' in manifest


def model_is_current(found: Contents, model: DemoModel, recipe: str) -> bool:
    return (found[str(model.folder / MADE_FROM)] or "").strip() == recipe


def plugins_are_current(found: Contents, layout: DemoLayout) -> bool:
    return all(found[str(PLUGINS / name)] == (layout.model_sources / name).read_text() for name in PLUGIN_FILES)


def make_model(layout: DemoLayout, cluster: DemoCluster, model: DemoModel) -> None:
    with step(f"make the model {model.name}"):
        script = STAGING / "jobs/make_model.sh"
        cluster.run_job(
            script, model.script, layout.model_recipe(model), layout.image, STAGING / "models", model.folder
        )


def install_plugins(cluster: DemoCluster) -> None:
    """Install vLLM's plugins for the scripted model; a running server keeps what it loaded."""
    sources = [str(STAGING / "models" / name) for name in PLUGIN_FILES]
    cluster.ask(["install", "-D", "-m", "0644", "-t", str(PLUGINS), *sources])


def read_layout(environ: Mapping[str, str]) -> DemoLayout:
    root = Path(__file__).resolve().parent.parent
    cpu = environ.get("DEMO_CPU") or "x86_64"
    if cpu not in PINS:
        raise ProvisionError(f"DEMO_CPU is {cpu}; the demo has images for {', '.join(PINS)}")
    return DemoLayout(root, root / (environ.get("DEMO_STAGING") or ".cache/staging"), cpu)


def main(environ: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(prog="demo.provision", description="Set the demo cluster up.")
    parser.add_argument("part", choices=["stage", "install"], help="fetch on this machine, or make on the cluster")
    part = parser.parse_args().part
    try:
        layout = read_layout(environ)
        if part == "stage":
            stage(layout)
        else:
            install(layout, DemoCluster(shlex.split(environ.get("COMPOSE") or DEFAULT_COMPOSE)))
    except ProvisionError as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
