"""Resources of sbatch and parallelism of vLLM, for every number of GPUs and nodes that models use on H200s."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from bouchet_core.config.catalog import Catalog, ModelEntry, Parallel, parallel_of
from bouchet_core.config.site import Site
from bouchet_core.deployments import Deployment, LaunchRequest
from bouchet_core.errors import LaunchRefusedError
from bouchet_core.placement import candidates, image_for
from bouchet_worker.launch.job_files import make_spec
from bouchet_worker.slurm.commands import sbatch_argv

NOW = datetime(2026, 11, 22, tzinfo=UTC)
CODER_480B = "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"


def commands(site: Site, catalog: Catalog, model: str, **options: object) -> tuple[str, str]:
    """Return sbatch's options for resources, and vLLM's options for parallelism."""
    identity, entry = catalog.find(model)
    request = LaunchRequest.model_validate({"model": identity, **options})
    record = Deployment(id="aa", model=identity, names=(entry.alias,), request=request, created_at=NOW, updated_at=NOW)
    placement = candidates(entry, request, site, {})[0]
    spec = make_spec(record, "bouchet-aa-1", entry, placement, image_for(entry, site), site)
    arguments = spec.arguments
    pairs = pairwise(arguments)
    parallel = [f"{option} {value}" for option, value in pairs if "-parallel-size" in option or "executor" in option]
    parallel += [option for option in arguments if option == "--enable-expert-parallel"]
    argv = sbatch_argv(placement, "n", "o", "s", [])
    resources = ("--nodes", "--ntasks", "--cpus", "--mem", "--gpus")
    return " ".join(option for option in argv if option.startswith(resources)), " ".join(parallel)


@pytest.mark.parametrize(
    ("model", "options", "resources", "parallel"),
    [
        (
            "Qwen/Qwen3-Coder-Next-FP8",
            {},
            "--nodes=1 --ntasks-per-node=1 --cpus-per-task=6 --mem=240G --gpus=h200:1",
            "",
        ),
        (
            "Qwen/Qwen3.5-122B-A10B-FP8",
            {},
            "--nodes=1 --ntasks-per-node=1 --cpus-per-task=12 --mem=480G --gpus=h200:2",
            "--tensor-parallel-size 2",
        ),
        (
            "zai-org/GLM-4.7-FP8",
            {},
            "--nodes=1 --ntasks-per-node=1 --cpus-per-task=24 --mem=960G --gpus=h200:4",
            "--tensor-parallel-size 4",
        ),
        (
            "moonshotai/Kimi-K2.7-Code",
            {},
            "--nodes=1 --ntasks-per-node=1 --cpus-per-task=48 --mem=1920G --gpus=h200:8",
            "--tensor-parallel-size 8",
        ),
        (
            CODER_480B,
            {},
            "--nodes=1 --ntasks-per-node=1 --cpus-per-task=48 --mem=1920G --gpus=h200:8",
            "--data-parallel-size 8 --enable-expert-parallel",
        ),
        (
            CODER_480B,
            {"gpus": 16, "nodes": 2},
            "--nodes=2 --ntasks-per-node=1 --cpus-per-task=48 --mem=1920G --gpus-per-node=h200:8",
            "--data-parallel-size 16 --distributed-executor-backend mp --enable-expert-parallel",
        ),
        (
            "zai-org/GLM-5.1-FP8",
            {"gpus": 16, "nodes": 2},
            "--nodes=2 --ntasks-per-node=1 --cpus-per-task=48 --mem=1920G --gpus-per-node=h200:8",
            "--tensor-parallel-size 8 --pipeline-parallel-size 2 --distributed-executor-backend mp",
        ),
        (
            "zai-org/GLM-4.7-FP8",
            {"nodes": 2},
            "--nodes=2 --ntasks-per-node=1 --cpus-per-task=12 --mem=480G --gpus-per-node=h200:2",
            "--tensor-parallel-size 2 --pipeline-parallel-size 2 --distributed-executor-backend mp",
        ),
    ],
)
def test_commands_for_h200s(
    bouchet_site: Site, catalog: Catalog, model: str, options: dict[str, object], resources: str, parallel: str
) -> None:
    assert commands(bouchet_site, catalog, model, **options) == (resources, parallel)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"gpus": 9, "nodes": 2}, "9 GPUs do not divide among 2 nodes"),
        ({"gpus": 32, "nodes": 4}, "allows at most 16 GPUs per user, not 32"),
        ({"gpus": 16}, "8 GPUs per node, not 16 (--nodes 2 spreads them)"),
        ({"gpus": 10, "nodes": 10}, "gpu_h200 has 9 nodes, not 10"),
    ],
)
def test_request_without_partition_is_refused(
    bouchet_site: Site, catalog: Catalog, options: dict[str, object], part: str
) -> None:
    with pytest.raises(LaunchRefusedError) as refused:
        commands(bouchet_site, catalog, CODER_480B, **options)
    assert part in str(refused.value)


ENTRY = ModelEntry(alias="m", window=4096)


@pytest.mark.parametrize(
    ("changes", "gpus", "nodes", "expected"),
    [
        ({}, 0, 1, Parallel()),
        ({}, 0, 2, Parallel(pipeline=2)),
        ({"parallel": "wide"}, 16, 2, Parallel(tensor=16)),
        ({"parallel": "data"}, 0, 2, Parallel(data=2)),
        ({"parallel": "expert"}, 4, 2, Parallel(data=4, experts=True)),
        ({"extra_args": ("-tp", "2", "--data-parallel-size=2")}, 4, 2, Parallel(tensor=2, data=2)),
    ],
)
def test_parallel_of_request(changes: dict[str, object], gpus: int, nodes: int, expected: Parallel) -> None:
    assert parallel_of(ENTRY.model_copy(update=changes), gpus, nodes) == expected


def test_parallel_of_explicit_sizes_for_other_gpus_raises() -> None:
    entry = ENTRY.model_copy(update={"extra_args": ("--tensor-parallel-size", "8")})
    with pytest.raises(
        LaunchRefusedError, match=r"for 8 GPUs \(tensor 8 x pipeline 1 x data 1\), not for 4; use --gpus 8"
    ):
        parallel_of(entry, 4, 1)


def test_explicit_sizes_reach_vllm_once(bouchet_site: Site) -> None:
    entry = ENTRY.model_copy(update={"gpus": 16, "nodes": 2, "extra_args": ("-tp=16",)})
    assert commands(bouchet_site, Catalog({"a/b": entry}), "a/b")[1] == "--distributed-executor-backend mp"
