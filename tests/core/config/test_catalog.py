"""The catalog: what is shipped loads, models are found by id and alias, mistakes have their line."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from bouchet_core.config.catalog import entry_of, load_catalog
from bouchet_core.config.site import catalogs_of, load_site
from bouchet_core.deployments import Deployment, LaunchRequest
from bouchet_core.errors import ConfigurationError, LaunchRefusedError, UnknownModelError

ROOT = Path(__file__).parents[3]
SEED_MODELS = [
    "Qwen/Qwen3-Coder-Next",
    "Qwen/Qwen3-32B",
    "Qwen/Qwen2.5-72B-Instruct",
    "Qwen/Qwen2.5-1.5B-Instruct",
    "moonshotai/Kimi-Dev-72B",
]


@pytest.mark.parametrize("name", ["demo", "bouchet"])
def test_load_catalog_of_a_shipped_site_has_its_models_and_images(name: str) -> None:
    path = ROOT / "sites" / f"{name}.yaml"
    site = load_site(path)
    catalog = load_catalog(*catalogs_of(path, site, ROOT / "models.yaml"))
    assert site.image(site.default_image) is not None
    assert site.default_model is None or catalog.find(site.default_model)
    assert all(site.image(e.image) for e in catalog.entries.values() if e.image)


def test_load_catalog_keeps_the_five_original_models() -> None:
    catalog = load_catalog(ROOT / "models.yaml")
    entries = [catalog.find(model)[1] for model in SEED_MODELS]
    assert [e.gpus for e in entries] == [2, 1, 1, 1, 1]
    assert [e.window for e in entries] == [40960, 40960, 32768, 32768, 40960]
    assert [e.quant for e in entries] == ["fp8", "fp8", "fp8", "none", "fp8"]


def test_find_accepts_alias_and_any_case() -> None:
    catalog = load_catalog(ROOT / "models.yaml")
    assert catalog.find("bouchet-qwen3-32b")[0] == catalog.find("qwen/qwen3-32b")[0] == "Qwen/Qwen3-32B"


def test_find_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UnknownModelError) as caught:
        load_catalog(ROOT / "models.yaml").find("Qwen3-32")
    assert caught.value.near[0] == "Qwen/Qwen3-32B"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("models:\n  a/b:\n    alias: x\n    windw: 3\n    window: 4096\n", 4, "did you mean 'window'"),
        ("models:\n  a/b: {alias: x, window: 4096}\n  a/b: {alias: y, window: 4096}\n", 3, "written twice"),
        ("models:\n  a/b:\n    alias: x\n", 2, "Field required"),
        ("models:\n  a/b:\n    alias: x\n    window: much\n", 4, "valid integer"),
        ("models:\n  nohub: {alias: x, window: 4096}\n", 2, "match pattern"),
        ("models: [\n", 2, "not valid YAML"),
        ("models:\n  a/b: \x1b[31m\n", 2, r"the character U\+001B"),
        ("models: {[1]: 2}\n", 1, "a list or an object"),
        ("models: 2026-13-45\n", 0, "not valid YAML: month"),
        ("models: !!int many\n", 0, "not valid YAML"),
        ("models: !!python/object:os.system x\n", 1, "not valid YAML"),
        ("models: &m [*m]\n", 0, "contains itself"),
        ("[" * 5000, 0, "nested too deeply"),
        ('models:\n  a/b: {alias: x, window: 4096, extra_args: ["a\\nb"]}\n', 2, "match pattern"),
        ("models:\n  a/b: {alias: claude-x, window: 4096}\n", 0, "must not begin with 'claude-'"),
        ("models:\n  a/b: {alias: x, window: 4096}\n  a/c: {alias: x, window: 4096}\n", 0, "used by a/b and a/c"),
        ("default: a/z\nmodels:\n  a/b: {alias: x, window: 4096}\n", 0, "not among the models"),
        ("", 1, "Field required"),
    ],
)
def test_load_catalog_mistake_has_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=words) as caught:
        load_catalog(path)
    assert (caught.value.path, caught.value.line) == (str(path), line)


def test_entry_of_prefers_the_recorded_entry() -> None:
    catalog = load_catalog(ROOT / "models.yaml")
    now = datetime(2026, 11, 22, tzinfo=UTC)
    model, entry = catalog.find("Qwen/Qwen3-32B")
    request = LaunchRequest(model=model)
    record = Deployment(id="aa", model=model, names=("x",), request=request, created_at=now, updated_at=now)
    assert entry_of(record, catalog) == entry
    recorded = {**entry.model_dump(mode="json"), "window": 1024}
    assert entry_of(record.model_copy(update={"entry": recorded}), catalog).window == 1024
    with pytest.raises(LaunchRefusedError):
        entry_of(record.model_copy(update={"entry": {**recorded, "future": 1}}), catalog)
