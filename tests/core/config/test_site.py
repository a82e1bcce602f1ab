"""Site files: the shipped ones, the documentation of every field, and mistakes with their line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bouchet_core.config.site import Partition, Site, SiteLogin, load_site
from bouchet_core.errors import ConfigurationError
from bouchet_core.values import parse_duration

ROOT = Path(__file__).parents[3]
SITES = sorted((ROOT / "sites").glob("[a-z]*.yaml"))
SITE_FILES = [path for path in SITES if not path.name.endswith(".models.yaml")]
DOCUMENT = (ROOT / "docs/sites.md").read_text()
DOCUMENTED = {word for row in re.findall(r"^\| (`.*?) \|", DOCUMENT, re.M) for word in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("field", sorted({*Site.model_fields, *Partition.model_fields}))
def test_every_field_is_documented(field: str) -> None:
    assert field in DOCUMENTED


def test_document_has_no_unknown_field() -> None:
    assert {*Site.model_fields, *Partition.model_fields, *SiteLogin.model_fields} >= DOCUMENTED


# as the site's documentation has them (August 2026)
@pytest.mark.parametrize(
    ("name", "hours", "limits"),
    [
        ("gpu_devel", 6, {"max_gpus": 2, "max_cpus": 12, "max_memory_gib": 256, "max_running": 1, "max_submitted": 1}),
        ("gpu_h200", 48, {"max_gpus": 16, "max_running": 6, "group_max_gpus": 32, "memory_per_node_gib": 1995}),
        ("gpu_b200", 48, {"max_gpus": 16, "gpu_types": ("b200",)}),
        ("gpu_h100", 48, {"max_gpus": 16}),
        ("gpu_rtx6000", 48, {"max_gpus": 16}),
        ("scavenge_gpu", 24, {"preemptible": True}),
        ("priority_gpu", 168, {"cost": "paid, so name its account with --account prio_..."}),
    ],
)
def test_bouchet_partition_has_the_documented_limits(name: str, hours: int, limits: dict[str, object]) -> None:
    partition = load_site(ROOT / "sites/bouchet.yaml").partition(name)
    assert partition is not None and parse_duration(partition.max_walltime) == hours * 3600
    assert {field: getattr(partition, field) for field in limits} == limits


@pytest.mark.parametrize("path", SITE_FILES, ids=lambda path: path.name)
def test_site_file_defines_what_it_refers_to(path: Path) -> None:
    site = load_site(path)
    assert site.image(site.default_image) is not None
    assert site.cpu_partition is None or site.partition(site.cpu_partition) is not None
    assert any(partition.auto for partition in site.partitions)
    assert len({partition.name for partition in site.partitions}) == len(site.partitions)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    max_running: 6", "    max_runing: 6", "did you mean 'max_running'?"),
        ("gpu_type: h200", "gpu_typ: h200", "did you mean 'gpu_type'?"),
        ("    max_running: 6", "    max_running: 0", "greater than or equal to 1"),
        ("    max_running: 6", "    max_running: six", "max_running"),
        ("scratch_purge_days: 30", "scratch_purge_days: soon", "scratch_purge_days"),
        ("root: ~/project/bouchet-llm", "root: project", "root"),
        ('default_walltime: "06:00:00"', 'default_walltime: "6 hours"', "default_walltime"),
        ("cpus_per_gpu: 6", 'apptainer: "apptainer; rm -rf /"', "apptainer"),
    ],
)
def test_load_site_mistake_is_one_line_with_its_line_number(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = (ROOT / "sites/bouchet.yaml").read_text()
    assert f"{old}\n" in text or f"{old} " in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigurationError) as caught:
        load_site(path)
    line = path.read_text().splitlines().index(next(row for row in path.read_text().splitlines() if new in row)) + 1
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.line == line


def test_load_site_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_site(tmp_path / "nowhere.yaml")


def test_on_scratch_matches_whole_folders() -> None:
    site = load_site(ROOT / "sites/bouchet.yaml")
    assert site.on_scratch("~/scratch/bouchet-llm/models") and site.on_scratch("~/scratch/bouchet-llm")
    assert not site.on_scratch("~/scratch/bouchet-llm2") and not site.on_scratch(site.models_dir)


@pytest.mark.parametrize(
    ("partition", "gpu_type", "charge"),
    [("gpu_h200", "h200", 300), ("gpu_b200", "b200", 370), ("free", "h200", 0), ("gpu_h200", "v100", None)],
)
def test_charge_per_gpu_hour_is_the_partitions_else_the_gpu_types(
    partition: str, gpu_type: str, charge: float | None
) -> None:
    site = load_site(ROOT / "sites/bouchet.yaml")
    free = Partition(name="free", max_walltime="1:00:00", charge=0)
    site = site.model_copy(update={"partitions": (*site.partitions, free)})
    assert site.charge_per_gpu_hour(partition, gpu_type) == charge
