"""Site files: the shipped ones, the documentation of every field, and mistakes with their line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bouchet_core.config.site import Partition, Site, SiteLogin, load_site
from bouchet_core.errors import ConfigurationError, LaunchRefusedError
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
        ('root: "{project}/bouchet-llm"', "root: project", "root"),
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


def write_site(tmp_path: Path, *lines: str, drop: str = "") -> Path:
    """Write bouchet's site file with more lines, and without the line that begins with `drop`."""
    text = (ROOT / "sites/bouchet.yaml").read_text()
    kept = [line for line in text.splitlines() if not drop or not line.startswith(drop)]
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join([*lines, *kept]) + "\n")
    return path


def test_load_site_puts_the_persons_directories_in(tmp_path: Path) -> None:
    environ = {"BOUCHET_PROJECT_DIR": "~/project_pi_ab12/me/"}
    site = load_site(ROOT / "sites/bouchet.yaml", environ)
    assert (site.root, site.scratch_dir) == ("~/project_pi_ab12/me/bouchet-llm", None)
    site = load_site(ROOT / "sites/bouchet.yaml", {**environ, "BOUCHET_SCRATCH_DIR": "/scratch/me"})
    assert site.scratch_dir == "/scratch/me/bouchet-llm"


def test_load_site_without_the_persons_directory_says_how_to_find_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_site(ROOT / "sites/bouchet.yaml", {})
    assert "set BOUCHET_PROJECT_DIR in .env" in str(caught.value) and "ls -d ~/project_pi_*" in str(caught.value)


def test_load_site_container_is_its_program_or_refused(tmp_path: Path) -> None:
    site = load_site(write_site(tmp_path, "container: singularity"))
    assert site.apptainer == "singularity"
    site = load_site(write_site(tmp_path, "container: singularity", "apptainer: /opt/bin/singularity"))
    assert site.apptainer == "/opt/bin/singularity"
    with pytest.raises(ConfigurationError) as caught:
        load_site(write_site(tmp_path, "container: podman-hpc"))
    assert "podman-hpc is not supported" in str(caught.value) and caught.value.line == 1


def test_account_for_a_partition_comes_before_the_sites(tmp_path: Path) -> None:
    site = load_site(write_site(tmp_path, "account: lab"))
    assert site.account_for("gpu_h200") == "lab"
    paid = Partition(name="paid", max_walltime="1:00:00", account="prio")
    assert site.model_copy(update={"partitions": (paid,)}).account_for("paid") == "prio"
    with pytest.raises(LaunchRefusedError) as caught:
        load_site(write_site(tmp_path, "account: required")).account_for("gpu_h200")
    assert "--account NAME" in str(caught.value)


def test_batch_setup_lines_export_the_proxy_after_the_sites_lines(tmp_path: Path) -> None:
    site = load_site(write_site(tmp_path, "setup_lines: [module load x]", "download_proxy: http://proxy:3128"))
    assert site.batch_setup_lines[:2] == ("module load x", "export https_proxy=http://proxy:3128")
    assert site.setup_lines == ("module load x",)


@pytest.mark.parametrize("name", ["delta", "kempner", "gautschi", "stampede3", "sherlock"])
def test_site_file_of_another_cluster_names_source_and_date(name: str) -> None:
    head = (ROOT / f"sites/{name}.yaml").read_text().splitlines()[:3]
    assert re.search(r"Source: \S+.* 20\d\d\.$", head[1]) and "NEVER RUN THERE" in head[2]
