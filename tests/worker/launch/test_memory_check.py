"""The memory check of a launch: what is read of its model on the cluster, and what follows from the estimate."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bouchet_core.config.job_scripts import COMPLETE_MARKER
from bouchet_core.config.site import Site
from bouchet_core.deployments import Deployment, Phase
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.plan import preview
from bouchet_worker.launch.submit import submit

from tests.fakes.slurm_gateway import FakeSlurm
from tests.worker.memory.model_configs import CONFIGS
from tests.worker.scenario import Clock, MakeWorkerContext, requested

# the scripted demo model
CONFIG = {
    "model_type": "qwen3", "num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 256, "vocab_size": 16448,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 65536,
    "dtype": "bfloat16",
}  # fmt: skip
INSPECTION: dict[str, Any] = {
    "config": CONFIG, "tensors": [["model.embed_tokens.weight", "BF16", 2, 4_800_000]], "revision": None
}  # fmt: skip


def launched(context: WorkerContext, record: Deployment) -> Deployment:
    context.store.create(record)
    submit(context, record.id)
    return context.store.get(record.id)


def test_estimate_is_on_the_record(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    slurm.model_inspection = INSPECTION
    record = launched(context, requested("aa", clock()))
    assert record.phase is Phase.QUEUED and record.job is not None and record.job.memory is not None
    memory = record.job.memory
    assert memory.token_bytes == 2 * 2 * 64 * 2 and memory.longest == 65536
    # 128 MiB of cache by the catalog's extra arguments
    assert memory.cache_gib == 0.12 and memory.conversations == 4.0


def test_too_long_window_is_refused_before_anything_is_staged(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    slurm.model_inspection = INSPECTION
    record = launched(context, requested("aa", clock(), max_len=10_000_000))
    assert record.phase is Phase.ENDED and slurm.jobs == {}
    assert "--max-len 65536 or less" in record.reason
    assert not any("/jobs/" in path for path in slurm.files)


def test_model_that_cannot_fit_is_refused_before_its_download(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    slurm.model_inspection = INSPECTION
    slurm.on_disk = {}
    record = launched(context, requested("aa", clock(), max_len=10_000_000))
    assert record.phase is Phase.ENDED and "--max-len 65536 or less" in record.reason
    assert "bouchet download" not in record.reason


def test_too_small_cache_is_refused(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    slurm.model_inspection = {**INSPECTION, "config": {**CONFIG, "num_hidden_layers": 64}}
    record = launched(context, requested("aa", clock()))
    assert record.phase is Phase.ENDED and slurm.jobs == {}
    assert "a window of 65536 tokens does not fit" in record.reason and "--max-len 8000" in record.reason


@pytest.mark.parametrize("output", ["", "no json", "[]", '{"config": {"model_type": 3}}', '{"config": 7}', "{}"])
def test_unreadable_inspection_refuses_nothing(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock, output: str
) -> None:
    slurm.model_inspection = output
    record = launched(context, requested("aa", clock()))
    assert record.phase is Phase.QUEUED and record.job is not None and record.job.memory is not None
    assert "not checked" in record.job.memory.note


def test_cache_type_reaches_vllm(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    launched(context, requested("aa", clock(), kv_cache_dtype="fp8"))
    staged = next(data.decode() for path, data in slurm.files.items() if path.endswith("/vllm.args"))
    assert "--kv-cache-dtype\nfp8\n" in staged


def test_preview_has_an_estimate_with_and_without_staged_scripts(
    new_cluster: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    slurm.model_inspection = INSPECTION
    record = requested("preview", clock(), max_len=32768)
    assert preview(new_cluster, record)["memory"]["source"] == "the catalog"
    slurm.files["/software/models/demo/scripted/config.json"] = json.dumps(CONFIG).encode()
    memory = preview(new_cluster, record)["memory"]
    assert memory["source"] == "its config.json on the cluster, and the catalog" and memory["conversations"] == 8.0
    slurm.files[f"{new_cluster.scripts_dir}/{COMPLETE_MARKER}"] = b""
    memory = preview(new_cluster, record)["memory"]
    assert memory["source"] == "the model on the cluster" and memory["conversations"] == 8.0


AT_BOUCHET = [
    "Qwen/Qwen3-Coder-Next-FP8",
    "Qwen/Qwen3-32B",
    "Qwen/Qwen2.5-72B-Instruct",
    "Qwen/Qwen3.8-27B-FP8",
    "openai/gpt-oss-120b",
    "MiniMaxAI/MiniMax-M2.7",
    "zai-org/GLM-4.7-FP8",
    "zai-org/GLM-5.1-FP8",
    "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8",
]


@pytest.mark.parametrize("model", AT_BOUCHET)
def test_catalog_model_fits_on_its_gpus(
    make_context: MakeWorkerContext, slurm: FakeSlurm, clock: Clock, bouchet_site: Site, model: str
) -> None:
    context = make_context(site=bouchet_site)
    config = CONFIGS[model.rpartition("/")[2]]
    slurm.files[f"{bouchet_site.models_dir}/{model}/config.json"] = json.dumps(config).encode()
    memory = preview(context, requested("preview", clock(), model=model))["memory"]
    assert memory["gpu_gib"] == 139.8 and memory["window"] <= memory["longest"]
    assert memory["conversations"] > 1.5, memory
