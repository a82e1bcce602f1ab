"""Catalog and site files: what is shipped loads, what is mistyped is refused with its line."""

from pathlib import Path

import pytest
from bouchet_core.config.catalog import load_catalog
from bouchet_core.config.site import catalogs_of, load_site
from bouchet_core.errors import ConfigurationError, UnknownModelError

ROOT = Path(__file__).parents[2]
SEED_MODELS = [
    "Qwen/Qwen3-Coder-Next",
    "Qwen/Qwen3-32B",
    "Qwen/Qwen2.5-72B-Instruct",
    "Qwen/Qwen2.5-1.5B-Instruct",
    "moonshotai/Kimi-Dev-72B",
]


@pytest.mark.parametrize("name", ["demo", "bouchet"])
def test_shipped_sites_and_their_catalogs_fit_together(name: str) -> None:
    path = ROOT / "sites" / f"{name}.yaml"
    site = load_site(path)
    catalog = load_catalog(*catalogs_of(path, site, ROOT / "models.yaml"))
    assert site.image(site.default_image) is not None
    assert site.default_model is None or catalog.find(site.default_model)
    assert all(site.image(e.image) for e in catalog.entries.values() if e.image)


def test_the_catalog_keeps_the_users_five_models() -> None:
    catalog = load_catalog(ROOT / "models.yaml")
    entries = [catalog.find(model)[1] for model in SEED_MODELS]
    assert [e.gpus for e in entries] == [2, 1, 1, 1, 1]
    assert [e.window for e in entries] == [40960, 40960, 32768, 32768, 40960]
    assert [e.quant for e in entries] == ["fp8", "fp8", "fp8", "none", "fp8"]


def test_a_model_is_found_by_alias_and_in_any_case() -> None:
    catalog = load_catalog(ROOT / "models.yaml")
    assert catalog.find("bouchet-qwen3-32b")[0] == catalog.find("qwen/qwen3-32b")[0] == "Qwen/Qwen3-32B"


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match=r"did you mean Qwen/Qwen3-32B"):
        load_catalog(ROOT / "models.yaml").find("Qwen3-32")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("models:\n  a/b:\n    alias: x\n    windw: 3\n    window: 4096\n", 4, "did you mean 'window'"),
        ("models:\n  a/b: {alias: x, window: 4096}\n  a/b: {alias: y, window: 4096}\n", 3, "written twice"),
        ("models:\n  a/b:\n    alias: x\n", 2, "Field required"),
        ("models:\n  a/b:\n    alias: x\n    window: much\n", 4, "valid integer"),
        ("models:\n  nohub: {alias: x, window: 4096}\n", 2, "match pattern"),
        ("models: [\n", 2, "not valid YAML"),
        ('models:\n  a/b: {alias: x, window: 4096, extra_args: ["a\\nb"]}\n', 2, "match pattern"),
        ("models:\n  a/b: {alias: claude-x, window: 4096}\n", 0, "must not begin with 'claude-'"),
        ("models:\n  a/b: {alias: x, window: 4096}\n  a/c: {alias: x, window: 4096}\n", 0, "used by a/b and a/c"),
        ("default: a/z\nmodels:\n  a/b: {alias: x, window: 4096}\n", 0, "not among the models"),
        ("", 1, "Field required"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=words) as caught:
        load_catalog(path)
    assert (caught.value.path, caught.value.line) == (str(path), line)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_site(tmp_path / "nowhere.yaml")
