"""vLLM's arguments for models of the catalog, and the files of a serving job."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from bouchet_core.config.catalog import Catalog
from bouchet_core.config.site import Site
from bouchet_core.deployments import Deployment, LaunchRequest
from bouchet_core.errors import ConfigurationError
from bouchet_core.placement import candidates, image_for
from bouchet_worker.launch.job_files import JobRecordFile, JobSpec, make_spec, render_files, render_record_file

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def spec(site: Site, catalog: Catalog, model: str, **options: object) -> JobSpec:
    identity, entry = catalog.find(model)
    request = LaunchRequest.model_validate({"model": identity, **options})
    record = Deployment(id="aa", model=identity, names=(entry.alias,), request=request, created_at=NOW, updated_at=NOW)
    placement = candidates(entry, request, site, {})[0]
    return make_spec(record, "bouchet-aa-1", entry, placement, image_for(entry, site), site)


COMMON_END = (
    "--enable-prompt-tokens-details",
    "--disable-access-log-for-endpoints",
    "/health,/metrics",
    "--middleware",
    "guard.Guard",
    "--shutdown-timeout",
    "100",
    "--allowed-media-domains",
    "none.invalid",
)


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        (
            "Qwen/Qwen3-32B",
            {},
            (
                *("--served-model-name", "bouchet-qwen3-32b", "Qwen/Qwen3-32B", "--max-model-len", "40960"),
                *("--quantization", "fp8", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
                *("--reasoning-parser", "qwen3", "--default-chat-template-kwargs", '{"enable_thinking": false}'),
            ),
        ),
        (
            "Qwen/Qwen3-Coder-Next-FP8",
            {"max_len": 65536, "quant": "fp8"},
            (
                *(
                    "--served-model-name",
                    "bouchet-qwen3-coder-next",
                    "Qwen/Qwen3-Coder-Next-FP8",
                    "--max-model-len",
                    "65536",
                ),
                *("--enable-auto-tool-choice", "--tool-call-parser", "qwen3_coder"),
            ),
        ),
        (
            "zai-org/GLM-5.1-FP8",
            {},
            (
                *("--served-model-name", "bouchet-glm-5.1", "zai-org/GLM-5.1-FP8", "--max-model-len", "202752"),
                *("--tensor-parallel-size", "8", "--enable-auto-tool-choice", "--tool-call-parser", "glm47"),
                *("--reasoning-parser", "glm45", "--default-chat-template-kwargs", '{"enable_thinking": false}'),
            ),
        ),
        (
            "moonshotai/Kimi-Dev-72B",
            {"quant": "none", "gpus": 2},
            (
                *("--served-model-name", "bouchet-kimi-dev-72b", "moonshotai/Kimi-Dev-72B", "--max-model-len", "40960"),
                *("--tensor-parallel-size", "2"),
            ),
        ),
        (
            "Qwen/Qwen3-Coder-Next",
            {},
            (
                *(
                    "--served-model-name",
                    "bouchet-qwen3-coder-next-bf16",
                    "Qwen/Qwen3-Coder-Next",
                    "--max-model-len",
                    "40960",
                ),
                *("--tensor-parallel-size", "2", "--quantization", "fp8"),
                *("--enable-auto-tool-choice", "--tool-call-parser", "qwen3_coder"),
            ),
        ),
    ],
)
def test_vllm_arguments_of_catalog_models(
    bouchet_site: Site, catalog: Catalog, model: str, options: dict[str, object], expected: tuple[str, ...]
) -> None:
    assert spec(bouchet_site, catalog, model, **options).arguments == (*expected, *COMMON_END)


def test_render_files_of_demo_model(demo_site: Site, catalog: Catalog) -> None:
    made = spec(demo_site, catalog, "demo/scripted")
    files = render_files(made, demo_site.model_copy(update={"setup_lines": ("module load apptainer",)}), "k" * 64)
    assert set(files) == {"spec.json", "vllm.args", "setup.sh", "key"}
    assert files["vllm.args"].decode().splitlines() == list(made.arguments)
    assert files["setup.sh"] == b"module load apptainer\n" and files["key"] == b"k" * 64 + b"\n"
    document = json.loads(files["spec.json"])
    assert document["image"] == "/software/images/cpu-0.32.0.sif" and document["idle_timeout_s"] == 0
    assert "k" * 64 not in files["spec.json"].decode()


def test_idle_timeout_of_request_overrides_the_site(bouchet_site: Site, catalog: Catalog) -> None:
    assert spec(bouchet_site, catalog, "Qwen/Qwen3-32B").idle_timeout_min == 45
    assert spec(bouchet_site, catalog, "Qwen/Qwen3-32B", idle_timeout_min=0).idle_timeout_min == 0


def test_make_spec_with_line_break_raises(demo_site: Site, catalog: Catalog) -> None:
    identity, entry = catalog.find("demo/scripted")
    bad = entry.model_copy(update={"extra_args": ("--x", "a\nb")})
    with pytest.raises(ConfigurationError, match="line break"):
        spec(demo_site, Catalog({identity: bad}), identity)


@pytest.mark.parametrize("argument", ["a'; echo x", "$(touch x)", "`x`", "ü ", "a,b=c", "x" * 300])
def test_render_files_keeps_special_characters(demo_site: Site, catalog: Catalog, argument: str) -> None:
    identity, entry = catalog.find("demo/scripted")
    made = spec(demo_site, Catalog({identity: entry.model_copy(update={"extra_args": (argument,)})}), identity)
    assert render_files(made, demo_site, "k")["vllm.args"].decode().split("\n")[-2] == argument


def test_record_file_holds_the_deployment_and_its_installation(demo_site: Site, catalog: Catalog) -> None:
    identity, entry = catalog.find("demo/scripted")
    request = LaunchRequest(model=identity)
    record = Deployment(id="aa", model=identity, names=(entry.alias,), request=request, created_at=NOW, updated_at=NOW)
    document = JobRecordFile.model_validate_json(render_record_file(record, "this-installation", NOW))
    assert (document.installation, document.staged_at, document.deployment) == ("this-installation", NOW, record)
