"""`bouchet site probe` on kinds of clusters: the file that it writes works as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bouchet_cli.commands.site import site_name
from bouchet_cli.site_probe.gpu_tests import describe_refusals
from bouchet_cli.site_probe.parse import parse_limits, parse_nodes, parse_tres
from bouchet_cli.site_probe.remote import parse_sections
from bouchet_core.config.catalog import load_catalog
from bouchet_core.config.site import REQUIRED, Site, load_site
from bouchet_core.deployments import LaunchRequest
from bouchet_core.placement import candidates
from bouchet_worker.slurm.commands import sbatch_test_only_argv

from tests.cli.harness import Bouchet, Done, one_line_error
from tests.fakes.cluster_programs import BOUCHET, DELTA, SHERLOCK, STAMPEDE3, WITH_FEATURES, KindOfCluster

CATALOG = load_catalog(Path(__file__).parents[3] / "models.yaml")
PRIVATE_FIRST = replace(
    WITH_FEATURES,
    partitions="PartitionName=gpu_private MaxTime=1-00:00:00 PriorityTier=1\n" + WITH_FEATURES.partitions,
    nodes="gpu_private|1|64|512000|gpu:h100:4|(null)\n" + WITH_FEATURES.nodes,
    asks_for_feature=False,
    account="",
    closed=("gpu_private",),
)
PERSON = {"BOUCHET_PROJECT_DIR": "/projects/x"}


def probe(bouchet: Bouchet, kind: KindOfCluster, folder: Path, *more: str) -> Done:
    """Run the command on a machine whose ssh leads to that cluster."""
    sites = folder / "sites"
    sites.mkdir(exist_ok=True)
    programs = kind.install(folder)
    path = f"{programs}:/usr/bin:/bin"
    return bouchet("site", "probe", "cluster", *more, PATH=path, BOUCHET_SITE_DIR=str(sites), HOME=str(folder))


def written(folder: Path) -> Site:
    """Return the site file, as the services read it."""
    return load_site(folder / "sites" / "cluster.yaml", PERSON)


def gpu_arguments(site: Site, account: str | None = None) -> list[str]:
    """Return sbatch's arguments for a launch there that names nothing else."""
    model, entry = "Qwen/Qwen3-32B", CATALOG.find("Qwen/Qwen3-32B")[1]
    placement = candidates(entry, LaunchRequest(model=model, account=account), site, {})[0]
    return sbatch_test_only_argv(placement)


def test_probe_of_bouchet_finds_its_limits(bouchet: Bouchet, tmp_path: Path) -> None:
    done = probe(bouchet, BOUCHET, tmp_path)
    assert done.status == 0, done.err
    site = written(tmp_path)
    assert site.gpu_type == "h200" and site.gpu_memory_gib == {"h200": 139.8}
    assert [p.name for p in site.partitions] == ["gpu_h200", "gpu_devel", "scavenge_gpu", "day"]
    h200, devel, scavenge, day = site.partitions
    assert (h200.max_gpus, h200.max_running, h200.group_max_gpus, h200.nodes, h200.gpus_per_node) == (16, 6, 32, 9, 8)
    assert (devel.max_gpus, devel.max_cpus, devel.max_submitted, devel.auto_max_gpus) == (2, 12, 1, 1)
    assert scavenge.preemptible and not scavenge.auto and h200.auto
    assert site.cpu_partition == "day" and day.gpus_per_node == 0
    assert site.quota_command == ("getquota",) and site.account is None
    assert site.maintenance and site.maintenance.startswith("2026-12-08T08:00:00")
    assert "--gpus=h200:1" in gpu_arguments(site)
    assert "not found: " in done.out and "prices" in done.out


def test_probe_of_whole_nodes_asks_for_no_gpus(bouchet: Bouchet, tmp_path: Path) -> None:
    done = probe(bouchet, STAMPEDE3, tmp_path)
    assert done.status == 0, done.err
    site = written(tmp_path)
    assert site.gpu_request == "none" and site.account == "ABC123"
    argv = gpu_arguments(site)
    assert not any(word.startswith(("--g", "--mem", "--cpus")) for word in argv), argv
    assert site.partitions[0].whole_node
    assert "Apptainer or Singularity" in done.out


def test_probe_where_an_account_is_demanded(bouchet: Bouchet, tmp_path: Path) -> None:
    assert probe(bouchet, DELTA, tmp_path).status == 0
    site, text = written(tmp_path), (tmp_path / "sites" / "cluster.yaml").read_text()
    assert site.account == REQUIRED and "bbbb-delta-gpu" in text and "job_submit plugin" in text
    # most GPUs there are A100
    assert [p.name for p in site.partitions if p.gpus_per_node] == ["gpuA100x4", "gpuH200x8"]
    assert "# gpu_private: User's group not permitted" in text
    assert "--account=bbbb-delta-gpu" in gpu_arguments(site, "bbbb-delta-gpu")


def test_probe_where_a_feature_of_the_nodes_is_demanded(bouchet: Bouchet, tmp_path: Path) -> None:
    assert probe(bouchet, WITH_FEATURES, tmp_path).status == 0
    site = written(tmp_path)
    assert (site.gpu_request, site.gpu_type_requested, site.account) == ("gres", False, "m1234")
    assert [(p.name, p.constraint, p.whole_node) for p in site.partitions] == [
        ("gpu", "h200", False), ("cpu", None, False),
    ]  # fmt: skip
    argv = gpu_arguments(site)
    assert "--gres=gpu:1" in argv and "--constraint=h200" in argv, argv


def test_probe_shows_every_refusal_once(bouchet: Bouchet, tmp_path: Path) -> None:
    closed = replace(WITH_FEATURES, closed=("gpu",))
    assert probe(bouchet, closed, tmp_path).status == 0
    text = (tmp_path / "sites" / "cluster.yaml").read_text()
    assert text.count("# refused: --gres: User's group not permitted") == 1 and "sbatch refused every way" in text
    (tmp_path / "open").mkdir()
    assert probe(bouchet, WITH_FEATURES, tmp_path / "open").status == 0
    text = (tmp_path / "open" / "sites" / "cluster.yaml").read_text()
    lines = [line for line in text.splitlines() if line.startswith("# refused: --gres: ")]
    assert [line.removeprefix("# refused: --gres: ")[:24] for line in lines] == [
        "GPU types are no part of", "choose the kind of GPU w", "Batch job submission fai",
    ]  # fmt: skip
    assert "# refused: --gpus: --gpus is not allowed" in text


def test_probe_tries_further_partitions_where_the_first_is_closed(bouchet: Bouchet, tmp_path: Path) -> None:
    own = PRIVATE_FIRST.partitions.splitlines()
    assert own[0].startswith("PartitionName=gpu_private")
    assert probe(bouchet, PRIVATE_FIRST, tmp_path).status == 0
    site, text = written(tmp_path), (tmp_path / "sites" / "cluster.yaml").read_text()
    assert site.gpu_request == "gres" and "# refused: --gres: User's group not permitted" in text
    assert [p.name for p in site.partitions if p.gpus_per_node] == ["gpu"]


def test_probe_of_programs_that_colour_their_output_is_yaml(bouchet: Bouchet, tmp_path: Path) -> None:
    programs = "printf '\\033[31msbatch: error: no\\302\\205 GPUs: \\007for you\\033[0m\\n' >&2; exit 1"
    kind = replace(BOUCHET, other_programs={**BOUCHET.other_programs, "sbatch": programs})
    assert probe(bouchet, kind, tmp_path).status == 0
    assert "GPUs: for you" in (tmp_path / "sites" / "cluster.yaml").read_text()
    assert written(tmp_path).name == "cluster"


def test_refusals_of_a_style_are_bounded() -> None:
    lines = list(describe_refusals({"gres": tuple("abcdef"), "none": ("no",)}))
    assert lines == ["--gres: a", "--gres: b", "--gres: c", "--gres: d", "--gres: and 2 more", "no option: no"]


def test_probe_where_gpus_have_no_type(bouchet: Bouchet, tmp_path: Path) -> None:
    assert probe(bouchet, SHERLOCK, tmp_path).status == 0
    site = written(tmp_path)
    assert site.gpu_type_requested is False and site.container == site.apptainer == "singularity"
    assert "--gpus=1" in gpu_arguments(site)


def test_probe_of_no_slurm_cluster_is_a_sentence(bouchet: Bouchet, tmp_path: Path) -> None:
    programs = BOUCHET.install(tmp_path)
    (programs / "sbatch").unlink()
    (tmp_path / "sites").mkdir()
    place = {"PATH": f"{programs}:/usr/bin:/bin", "BOUCHET_SITE_DIR": str(tmp_path / "sites")}
    done = bouchet("site", "probe", "host", **place)
    assert done.status == 1 and "has no sbatch" in done.err.splitlines()[-1]
    assert list((tmp_path / "sites").iterdir()) == []


def test_probe_where_the_shell_ends_is_a_sentence(bouchet: Bouchet, tmp_path: Path) -> None:
    kind = KindOfCluster(BOUCHET.partitions, BOUCHET.nodes, noise="Choose a project [1-3]", exits=True)
    done = probe(bouchet, kind, tmp_path)
    assert done.status == 1 and "start-up file" in done.err


def test_existing_file_is_kept_without_force(bouchet: Bouchet, tmp_path: Path) -> None:
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "cluster.yaml").write_text("name: mine\n")
    assert one_line_error(probe(bouchet, BOUCHET, tmp_path), 1)
    assert (tmp_path / "sites" / "cluster.yaml").read_text() == "name: mine\n"
    (tmp_path / "again").mkdir()
    place = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "BOUCHET_SITE_DIR": str(tmp_path / "sites")}
    assert bouchet("site", "probe", "cluster", "--force", **place).status == 0
    assert written(tmp_path).name == "cluster"


def test_probe_without_ssh_is_a_sentence(bouchet: Bouchet, tmp_path: Path) -> None:
    done = bouchet("site", "probe", "cluster", PATH=str(tmp_path), BOUCHET_SITE_DIR=str(tmp_path))
    assert done.status == 1 and "has no ssh" in done.err


def test_option_as_a_host_is_refused(bouchet: Bouchet, tmp_path: Path) -> None:
    assert bouchet("site", "probe", "--", "-oProxyCommand=x").status == 2


def test_sections_leave_out_what_start_up_files_print() -> None:
    assert parse_sections("hello\n\nm user\nme\n\nm end\n", "m") == {"user": "me", "end": ""}


@pytest.mark.parametrize(
    ("host", "name"), [("login.delta.ncsa.edu", "delta"), ("me@login.x.org", "x"), ("Alias", "alias")]
)
def test_site_name_from_a_host(host: str, name: str) -> None:
    assert site_name(host) == name


def test_numbers_of_tres_nodes_and_limits() -> None:
    assert parse_tres("cpu=12,gres/gpu:h200=4,mem=1T") == {"cpu": 12, "gres/gpu": 4, "gres/gpu:h200": 4}
    (kind,) = parse_nodes("p*|10+|48|2043000+|gpu:h200:8(S:0-1),shard:1|a,b")["p"]
    assert (kind.count, kind.cpus, kind.memory_gib, kind.gpus, kind.gpu_type) == (10, 48, 1995, 8, "h200")
    assert parse_limits("a|gres/gpu=2|x|3||\nbad line") == {"a": {"max_gpus": 2, "max_submitted": 3}}
