"""Whole jobs as text: what is staged and submitted for a shape, and what its nodes then run.

.venv/bin/python -m tests.contracts.golden_jobs        writes tests/contracts/golden/ again; review the difference
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bouchet_core.config.catalog import Catalog, load_catalog
from bouchet_core.config.site import Site, catalogs_of, load_site
from bouchet_core.deployments import Deployment, LaunchRequest
from bouchet_core.placement import candidates, image_for
from bouchet_worker.launch.job_files import make_spec, render_files
from bouchet_worker.paths import SERVE_SCRIPT, RemotePaths
from bouchet_worker.slurm.commands import sbatch_argv

from tests.remote.compute_node import (
    KEY,
    OLDEST,
    REPOSITORY,
    SCRIPTS,
    ComputeNode,
    add_second_node,
    make_compute_node,
    running,
)

GOLDEN = Path(__file__).parent / "golden"
NAME = "bouchet-aa-1"
NOW = datetime(2026, 11, 22, tzinfo=UTC)
PERSON = {"BOUCHET_PROJECT_DIR": "~/project", "BOUCHET_SCRATCH_DIR": "~/scratch"}
CODER_480B = "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"


@dataclass(frozen=True)
class Shape:
    """A launch that is typical of many."""

    site: str
    model: str
    gpus: int | None = None
    nodes: int | None = None
    account: str | None = None


SHAPES = {
    "one-gpu-fp8": Shape("bouchet", "Qwen/Qwen3-Coder-Next-FP8"),
    "eight-gpus-tensor-parallel": Shape("bouchet", "zai-org/GLM-5.1-FP8"),
    "eight-gpus-data-and-expert-parallel": Shape("bouchet", CODER_480B),
    "two-nodes-data-and-expert-parallel": Shape("bouchet", CODER_480B, 16, 2),
    "two-nodes-pipeline-parallel": Shape("bouchet", "zai-org/GLM-5.1-FP8", 16, 2),
    "demo-on-cpus": Shape("demo", "demo/scripted"),
}


# clusters on which nothing of ours has run: what would be submitted there
OTHER_SITES = {
    name: Shape(name, "Qwen/Qwen3-32B", gpus, nodes, account)
    for name, gpus, nodes, account in (
        ("delta", 1, 1, "bbka-delta-gpu"),
        ("kempner", 2, 1, "kempner_lab"),
        ("gautschi", 8, 1, "lab"),
        ("stampede3", 4, 1, None),
        ("sherlock", 1, 1, None),
    )
}


def submission(shape: Shape) -> str:
    """Return the command and the start of the batch script's work as one text."""
    argv, files = staged(shape)
    return f"== sbatch\n{lines(argv)}== setup.sh\n{files['setup.sh'].decode()}"


def whole_job(shape: Shape, directory: Path) -> str:
    """Return everything about the job as one text; it runs on nodes made in that directory."""
    files = {name: data.decode() for name, data in staged(shape)[1].items()}
    parts = {"sbatch": lines(staged(shape)[0]), **files, **run_job(files, directory)}
    return "".join(f"== {name}\n{text}" for name, text in parts.items())


def staged(shape: Shape) -> tuple[list[str], dict[str, bytes]]:
    """Return sbatch's argv and the files of the job's folder without the key."""
    site, catalog = loaded(shape.site)
    identity, entry = catalog.find(shape.model)
    request = LaunchRequest(model=identity, gpus=shape.gpus, nodes=shape.nodes, account=shape.account)
    record = Deployment(id="aa", model=identity, names=(entry.alias,), request=request, created_at=NOW, updated_at=NOW)
    placement = candidates(entry, request, site, {})[0]
    files = render_files(make_spec(record, NAME, entry, placement, image_for(entry, site), site), site, KEY)
    paths = RemotePaths(site.root)
    scripts = paths.scripts("SCRIPTS")
    argv = sbatch_argv(placement, NAME, paths.log("%j"), f"{scripts}/{SERVE_SCRIPT}", [paths.job(NAME), scripts])
    return argv, {name: data for name, data in files.items() if name != "key"}


def loaded(name: str) -> tuple[Site, Catalog]:
    """Load the site file and its catalog."""
    path = REPOSITORY / "sites" / f"{name}.yaml"
    site = load_site(path, PERSON)
    return site, load_catalog(*catalogs_of(path, site, REPOSITORY / "models.yaml"))


def run_job(files: Mapping[str, str], directory: Path) -> dict[str, str]:
    """Run the batch script with these files; return Apptainer's argv and environment on each node."""
    node = make_compute_node(directory, OLDEST)
    spec: dict[str, Any] = json.loads(files["spec.json"])
    ours = {name: node.spec[name] for name in ("root", "models_dir", "image", "image_sha256")}
    node.spec = {**spec, **ours, "idle_timeout_s": 0}
    for name in ("vllm.args", "setup.sh"):
        (node.job_dir / name).write_text(files[name])
    model = node.root / "models" / spec["model"]
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    records = {"node7": node.root / "record.json"}
    if spec["nodes"] > 1:
        add_second_node(node)
        records["node8"] = node.root / "record-1.json"
    with running(node):
        node.wait_for(lambda: all(path.exists() for path in records.values()))
        records_read = {name: json.loads(path.read_text()) for name, path in records.items()}
        if spec["nodes"] > 1:
            records_read["srun"] = json.loads((node.root / "record-srun.json").read_text())
    return {name: plain(apptainer_call(record), node) for name, record in records_read.items()}


def apptainer_call(record: Mapping[str, Any]) -> str:
    """Return Apptainer's or srun's argv, and the variables for the container."""
    argv = record.get("argv") or [*record["flags"], *(f"{to}={at}" for to, at in record["binds"].items())]
    given = {name: value for name, value in record["environment"].items() if name.startswith("APPTAINERENV_")}
    command = record.get("command", [])
    return lines([*argv, *command]) + lines(f"{name}={value}" for name, value in sorted(given.items()))


def plain(text: str, node: ComputeNode) -> str:
    """Replace what differs from run to run."""
    for found, name in ((str(SCRIPTS), "SCRIPTS"), (str(node.root), "ROOT"), (KEY, "KEY"), (str(REPOSITORY), "HERE")):
        text = text.replace(found, name)
    text = re.sub(r"(bouchet-77-[a-z0-9]+)-\w{6}\b", r"\1-XXXXXX", text)
    text = re.sub(r"(?m)^(2|3)\d{4}$", "PORT", text)
    return re.sub(r"(?m)^.*srun_program\.py$", "srun", text)


def lines(items: Iterable[str]) -> str:
    """Return one item a line."""
    return "".join(f"{item}\n" for item in items)


def main() -> None:
    """Write all golden files."""
    GOLDEN.mkdir(exist_ok=True)
    for old in GOLDEN.glob("*.txt"):
        old.unlink()
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as directory:
            (GOLDEN / f"{name}.txt").write_text(whole_job(shape, Path(directory)))
    (GOLDEN / "sites").mkdir(exist_ok=True)
    for name, shape in OTHER_SITES.items():
        (GOLDEN / "sites" / f"{name}.txt").write_text(submission(shape))


if __name__ == "__main__":
    main()
