"""Generated files equal what `make docs` writes, and the shipped catalog has the models' real figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bouchet_api.app import VERSION as API_VERSION
from bouchet_cli import VERSION as CLI_VERSION
from bouchet_cli.reference import reference
from bouchet_core.config.catalog import load_catalog
from bouchet_core.schemas import SCHEMAS, schema_text

ROOT = Path(__file__).parents[2]
YAML_FILES = [ROOT / "models.yaml", *sorted((ROOT / "sites").glob("*.yaml"))]
RENEW = "run `make docs`"
# model -> H200 GPUs of 141 GB, its largest window, tool parser, reasoning parser
PUBLISHED = {
    "Qwen/Qwen3-Coder-Next-FP8": (1, 262144, "qwen3_coder", None),
    "Qwen/Qwen3-Coder-Next": (2, 262144, "qwen3_coder", None),
    "Qwen/Qwen3-32B": (1, 40960, "hermes", "qwen3"),
    "Qwen/Qwen2.5-72B-Instruct": (1, 32768, "hermes", None),
    "Qwen/Qwen2.5-1.5B-Instruct": (1, 32768, "hermes", None),
    "moonshotai/Kimi-Dev-72B": (1, 131072, None, None),
    "Qwen/Qwen3.6-27B-FP8": (1, 262144, "qwen3_coder", "qwen3"),
    "Qwen/Qwen3.6-35B-A3B-FP8": (1, 262144, "qwen3_coder", "qwen3"),
    "Qwen/Qwen3.8-27B-FP8": (1, 262144, "qwen3_coder", "qwen3"),
    "openai/gpt-oss-120b": (1, 131072, "openai", None),
    "Qwen/Qwen3.5-122B-A10B-FP8": (2, 262144, "qwen3_coder", "qwen3"),
    "MiniMaxAI/MiniMax-M2.7": (4, 196608, "minimax_m2", "minimax_m2"),
    "zai-org/GLM-4.7-FP8": (4, 202752, "glm47", "glm45"),
    "zai-org/GLM-5.1-FP8": (8, 202752, "glm47", "glm45"),
    "moonshotai/Kimi-K2.7-Code": (8, 262144, "kimi_k2", "kimi_k2"),
    "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8": (8, 262144, "qwen3_coder", None),
}
GPU_GIB = 131


def test_commands_page_is_current() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), RENEW


@pytest.mark.parametrize("file", SCHEMAS)
def test_schema_is_current(file: str) -> None:
    assert (ROOT / "schemas" / file).read_text() == schema_text(file), RENEW


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_yaml_files_name_their_schema(path: Path) -> None:
    match = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text())
    assert match
    schema = (path.parent / match[1]).resolve()
    assert schema.parent == ROOT / "schemas"
    assert schema.name == ("models.schema.json" if "models" in path.name else "site.schema.json")
    assert schema.name in SCHEMAS


def test_catalog_has_the_published_figures() -> None:
    entries = load_catalog(ROOT / "models.yaml").entries
    assert set(entries) == set(PUBLISHED)
    for identity, (gpus, window, tools, reasoning) in PUBLISHED.items():
        entry = entries[identity]
        assert (entry.gpus, entry.tool_parser, entry.reasoning_parser) == (gpus, tools, reasoning), identity
        assert entry.window <= window, identity
        assert entry.weights_gib is not None, identity
        # quantised at load, 16 bits become 8
        loaded = entry.weights_gib / (2 if entry.quant == "fp8" else 1)
        assert loaded < gpus * GPU_GIB, f"{identity} does not fit its GPUs"


def test_packages_have_one_version() -> None:
    projects = [ROOT / folder / "pyproject.toml" for folder in ("core", "cli", "services/api", "services/worker")]
    versions = {re.findall(r'^version = "(.*)"$', path.read_text(), re.M)[0] for path in projects}
    assert versions == {CLI_VERSION} == {API_VERSION}
