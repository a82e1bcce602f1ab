"""The image and the models, made on the cluster itself by Slurm jobs of an ordinary user."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

from .commands import run, step
from .layout import DEMO_MODELS, IMAGES, PIN, PLUGIN_FILES, PLUGINS, STAGING, Layout, Model

PARTITION = "day"
USER = "researcher"
ASK_TIMEOUT_S = 60
JOB_TIMEOUT_S = 1800
MADE_FROM = ".made-from"
IMAGE = IMAGES / f"{PIN}.sif"
MANIFEST = IMAGES / f"{PIN}.manifest.json"

# Run on the login node: the beginning of each file named, as JSON; null for those that are not there.
READ_FILES = """
import json, os, sys
read = lambda path: open(path, errors="replace").read(9999) if os.path.isfile(path) else None
print(json.dumps({path: read(path) for path in sys.argv[1:]}))
"""

Contents = dict[str, str | None]


@dataclass(frozen=True)
class Cluster:
    """The way in: Compose's command line up to and without the verb."""

    compose: Sequence[str]

    def ask(self, argv: Sequence[str], timeout_s: float = ASK_TIMEOUT_S) -> str:
        """What a command prints on the login node."""
        return run([*self.compose, "exec", "-T", "-u", USER, "demo-login", *argv], timeout_s=timeout_s)

    def read(self, paths: Sequence[PurePosixPath]) -> Contents:
        """The beginnings of files, all in one question."""
        contents: Contents = json.loads(self.ask(["python3", "-c", READ_FILES, *map(str, paths)]))
        return contents

    def run_job(self, script: PurePosixPath, *arguments: object) -> None:
        """Submit a job and wait for it; CommandFailedError with the end of its log."""
        argv = [str(STAGING / "jobs/run_job.sh"), PARTITION, str(script), *map(str, arguments)]
        self.ask(argv, timeout_s=JOB_TIMEOUT_S)


def install(layout: Layout, cluster: Cluster) -> None:
    """Make what is missing or was made from something else."""
    marks = [model.folder / MADE_FROM for model in DEMO_MODELS]
    plugins = [PLUGINS / name for name in PLUGIN_FILES]
    found = cluster.read([IMAGE, MANIFEST, *marks, *plugins])
    if not image_is_current(found, layout.image_recipe()):
        with step(f"build the image {PIN}"):
            cluster.run_job(STAGING / PIN / "build.sh", STAGING / PIN, IMAGES)
    stale = [model for model in DEMO_MODELS if not model_is_current(found, model, layout.model_recipe(model))]
    with ThreadPoolExecutor(len(DEMO_MODELS)) as pool:
        list(pool.map(lambda model: make_model(layout, cluster, model), stale))
    if not plugins_are_current(found, layout):
        install_plugins(cluster)


def image_is_current(found: Contents, recipe: str) -> bool:
    manifest = found[str(MANIFEST)]
    return found[str(IMAGE)] is not None and f'"recipe_sha256": "{recipe}"' in (manifest or "")


def model_is_current(found: Contents, model: Model, recipe: str) -> bool:
    return (found[str(model.folder / MADE_FROM)] or "").strip() == recipe


def plugins_are_current(found: Contents, layout: Layout) -> bool:
    return all(found[str(PLUGINS / name)] == (layout.model_sources / name).read_text() for name in PLUGIN_FILES)


def make_model(layout: Layout, cluster: Cluster, model: Model) -> None:
    with step(f"make the model {model.name}"):
        script = STAGING / "jobs/make_model.sh"
        cluster.run_job(script, model.script, layout.model_recipe(model), IMAGE, STAGING / "models", model.folder)


def install_plugins(cluster: Cluster) -> None:
    """vLLM's plugins for the scripted model; a running server keeps what it loaded."""
    sources = [str(STAGING / "models" / name) for name in PLUGIN_FILES]
    cluster.ask(["install", "-D", "-m", "0644", "-t", str(PLUGINS), *sources])
