"""Placement on the two shipped site files: the choice of a partition, every limit, and refusals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from bouchet_core.config.catalog import Catalog, ModelEntry, load_catalog
from bouchet_core.config.site import Site, SiteImage, catalogs_of, load_site
from bouchet_core.deployments import LaunchRequest, Placement
from bouchet_core.errors import LaunchRefusedError
from bouchet_core.placement import UserUsage, candidates, image_for
from bouchet_core.policy.budget import preview
from bouchet_core.values import format_duration, parse_duration
from hypothesis import given
from hypothesis import strategies as st

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo_site() -> Site:
    return load_site(REPOSITORY / "sites" / "demo.yaml")


@pytest.fixture(scope="module")
def bouchet_site() -> Site:
    return load_site(REPOSITORY / "sites" / "bouchet.yaml")


@pytest.fixture(scope="module")
def catalog(demo_site: Site) -> Catalog:
    return load_catalog(*catalogs_of(REPOSITORY / "sites" / "demo.yaml", demo_site, REPOSITORY / "models.yaml"))


def place(site: Site, entry: ModelEntry, usage: dict[str, UserUsage] | None = None, **options: Any) -> Placement:
    request = LaunchRequest.model_validate({"model": "m", **options})
    return candidates(entry, request, site, usage or {})[0]


@pytest.fixture(scope="module")
def one_gpu(catalog: Catalog) -> ModelEntry:
    return catalog.find("Qwen/Qwen3-32B")[1]


@pytest.mark.parametrize(
    ("options", "partition"),
    [
        ({}, "gpu_devel"),
        ({"gpus": 1, "time": "06:00:00"}, "gpu_devel"),
        ({"gpus": 1, "time": "06:00:01"}, "gpu_h200"),
        ({"gpus": 2}, "gpu_h200"),
        ({"gpus": 2, "partition": "gpu_devel"}, "gpu_devel"),
        ({"gpus": 1, "partition": "gpu_h200"}, "gpu_h200"),
        ({"partition": "scavenge_gpu"}, "scavenge_gpu"),
        ({"gpus": 16, "nodes": 2, "time": "2-00:00:00"}, "gpu_h200"),
    ],
)
def test_candidates_prefer_devel_for_small_and_short_jobs(
    bouchet_site: Site, one_gpu: ModelEntry, options: dict[str, Any], partition: str
) -> None:
    assert place(bouchet_site, one_gpu, **options).partition == partition


def test_placement_cpus_and_memory_grow_with_gpus(bouchet_site: Site, one_gpu: ModelEntry) -> None:
    one, four = place(bouchet_site, one_gpu), place(bouchet_site, one_gpu, gpus=4)
    assert (one.cpus, one.memory_gib, one.walltime_s, one.gpu_type) == (6, 240, 21_600, "h200")
    assert (four.cpus, four.memory_gib) == (24, 960)


def test_placement_resources_are_per_node_and_capped_at_the_node(bouchet_site: Site, one_gpu: ModelEntry) -> None:
    whole = place(bouchet_site, one_gpu, gpus=16, nodes=2)
    assert (whole.cpus, whole.memory_gib, whole.nodes) == (48, 1920, 2)


def test_placement_on_whole_nodes_counts_all_of_their_gpus(bouchet_site: Site, one_gpu: ModelEntry) -> None:
    partitions = tuple(p.model_copy(update={"whole_node": True, "max_gpus": 16}) for p in bouchet_site.partitions)
    site = bouchet_site.model_copy(update={"partitions": partitions})
    each = partitions[0].gpus_per_node
    assert each > 1
    placement = place(site, one_gpu, gpus=1)
    assert (placement.gpus, placement.held_gpus) == (1, each)
    assert f"1 h x {each} " in preview(placement.model_copy(update={"walltime_s": 3600}), site)
    assert place(site, one_gpu, gpus=2, nodes=2).held_gpus == 2 * each
    assert place(bouchet_site, one_gpu, gpus=1).held_gpus == 1
    with pytest.raises(LaunchRefusedError, match=f"allows at most 16 GPUs per user, not {3 * each}"):
        place(site, one_gpu, gpus=3, nodes=3)


def test_placement_default_walltime_is_capped_at_the_partitions(bouchet_site: Site, one_gpu: ModelEntry) -> None:
    site = bouchet_site.model_copy(update={"default_walltime": "12:00:00"})
    assert place(site, one_gpu).walltime_s == 6 * 3600


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gpus": 64}, ["at most 16 GPUs per user", "nearest that would fit: --partition gpu_h200 --gpus 8"]),
        ({"gpus": 12}, ["8 GPUs per node, not 12", "--gpus 8"]),
        ({"time": "0"}, ["use a minute at least"]),
        ({"gpus": 3, "nodes": 2}, ["do not divide among 2 nodes"]),
        ({"gpus": 4, "partition": "gpu_devel"}, ["at most 2 GPUs per user, not 4", "--partition gpu_h200 --gpus 4"]),
        (
            {"time": "7:00:00", "partition": "gpu_devel"},
            ["at most 06:00:00", "--partition gpu_h200 --gpus 1 --time 07:00:00"],
        ),
        ({"partition": "gpu_a100"}, ["has no partition 'gpu_a100'", "gpu_devel, gpu_h200"]),
        ({"partition": "day"}, ["day allows at most 0 GPUs per user", "nearest"]),
        ({"time": "30-00:00:00"}, ["nearest that would fit", "7-00:00:00"]),
    ],
)
def test_candidates_refusal_names_limit_and_nearest_request(
    bouchet_site: Site, one_gpu: ModelEntry, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(LaunchRefusedError) as refused:
        place(bouchet_site, one_gpu, **options)
    for word in words:
        assert word in str(refused.value)


def test_candidates_skip_full_partition_unless_named(bouchet_site: Site, one_gpu: ModelEntry) -> None:
    full = {"gpu_devel": UserUsage(submitted=1)}
    assert place(bouchet_site, one_gpu, full).partition == "gpu_h200"
    assert "you have 1" in place(bouchet_site, one_gpu, full).why
    assert place(bouchet_site, one_gpu, full, partition="gpu_devel").partition == "gpu_devel"


def test_candidates_for_auto_are_all_that_fit_in_file_order(bouchet_site: Site, one_gpu: ModelEntry) -> None:
    offered = candidates(one_gpu, LaunchRequest.model_validate({"model": "m", "partition": "auto"}), bouchet_site, {})
    assert [p.partition for p in offered] == ["gpu_devel", "gpu_h200"]


def test_candidates_without_gpus_use_the_cpu_partition(demo_site: Site, one_gpu: ModelEntry) -> None:
    placed = place(demo_site, one_gpu.model_copy(update={"gpus": 0}))
    assert (placed.partition, placed.gpus, placed.cpus, placed.memory_gib) == ("day", 0, 2, 6)


def test_placement_account_is_the_requests_then_the_partitions(bouchet_site: Site, one_gpu: ModelEntry) -> None:
    partitions = tuple(p.model_copy(update={"account": "lab"}) for p in bouchet_site.partitions)
    site = bouchet_site.model_copy(update={"partitions": partitions})
    assert place(site, one_gpu).account == "lab"
    assert place(site, one_gpu, account="mine", qos="q", constraint="c").account == "mine"


@pytest.mark.parametrize(
    ("entry", "images", "words"),
    [
        ({"image": "none-1"}, (), "has no image 'none-1'"),
        ({"min_vllm": "0.33"}, (), "needs vLLM 0.33"),
        ({}, (SiteImage(pin="cuda13-0.32.0", vllm="0.17.1", sha256=None),), "needs vLLM 0.18"),
    ],
)
def test_image_for_missing_or_old_image_refuses(
    bouchet_site: Site, one_gpu: ModelEntry, entry: dict[str, object], images: tuple[SiteImage, ...], words: str
) -> None:
    site = bouchet_site.model_copy(update={"images": images or bouchet_site.images})
    with pytest.raises(LaunchRefusedError, match=words):
        image_for(one_gpu.model_copy(update=entry), site)


ARM_IMAGE = SiteImage(pin="cpu-arm64-0.32.0", vllm="0.32.0")


@pytest.mark.parametrize(
    ("arch", "images", "words"),
    [
        ("aarch64", (), "the image cuda13-0.32.0 is for x86_64, and .* has aarch64 nodes: list an image for aarch64"),
        ("aarch64", (ARM_IMAGE,), "use one of cpu-arm64-0.32.0"),
    ],
)
def test_image_for_other_cpus_refuses_and_names_one_that_fits(
    bouchet_site: Site, one_gpu: ModelEntry, arch: str, images: tuple[SiteImage, ...], words: str
) -> None:
    site = bouchet_site.model_copy(update={"cpu_arch": arch, "images": (*bouchet_site.images, *images)})
    with pytest.raises(LaunchRefusedError, match=words):
        image_for(one_gpu, site)


def test_image_for_arm64_is_used_on_such_nodes_only(bouchet_site: Site, one_gpu: ModelEntry) -> None:
    update = {"images": (*bouchet_site.images, ARM_IMAGE), "default_image": ARM_IMAGE.pin}
    site = bouchet_site.model_copy(update=update)
    assert image_for(one_gpu, site.model_copy(update={"cpu_arch": "aarch64"})) == ARM_IMAGE
    with pytest.raises(LaunchRefusedError, match=r"is for aarch64, and .* has x86_64 nodes: use one of cuda13"):
        image_for(one_gpu, site)


def test_every_catalog_model_has_a_placement_and_an_image(bouchet_site: Site, catalog: Catalog) -> None:
    for entry in catalog.entries.values():
        if not entry.alias.endswith(("smollm2", "scripted")):
            assert place(bouchet_site, entry).gpus == entry.gpus
            assert image_for(entry, bouchet_site)


def test_candidates_count_the_users_own_jobs(bouchet_site: Site, one_gpu: ModelEntry) -> None:
    running = {"gpu_h200": UserUsage(submitted=6, running=6, gpus=6)}
    waits = place(bouchet_site, one_gpu, running, gpus=2)
    assert waits.partition == "gpu_h200" and "limit of 6 running jobs per user, and you have 6" in waits.why
    full = {"gpu_h200": UserUsage(submitted=2, running=2, gpus=15)}
    assert "your jobs there use 15" in place(bouchet_site, one_gpu, full, gpus=2, partition="gpu_h200").why
    assert "your jobs" not in place(bouchet_site, one_gpu, full, gpus=1, partition="gpu_h200").why


def test_candidates_with_a_wait_come_last(bouchet_site: Site, one_gpu: ModelEntry) -> None:
    partitions = tuple(p.model_copy(update={"max_submitted": None}) for p in bouchet_site.partitions)
    site = bouchet_site.model_copy(update={"partitions": partitions})
    offered = candidates(
        one_gpu, LaunchRequest(model="m"), site, {"gpu_devel": UserUsage(submitted=1, running=1, gpus=1)}
    )
    assert [p.partition for p in offered] == ["gpu_h200", "gpu_devel"]


def test_placement_is_capped_at_the_users_limits(bouchet_site: Site, one_gpu: ModelEntry) -> None:
    placed = place(bouchet_site, one_gpu, gpus=2, partition="gpu_devel")
    assert (placed.cpus, placed.memory_gib) == (12, 256)


@pytest.mark.parametrize(
    ("partition", "gpu_type", "words"),
    [
        ("gpu_b200", "b200", "selected with --partition"),
        ("scavenge_gpu", "h200", "stopped without notice"),
        ("priority_gpu", "h200", "paid, so name its account"),
    ],
)
def test_named_partition_has_its_gpu_type_and_warnings(
    bouchet_site: Site, one_gpu: ModelEntry, partition: str, gpu_type: str, words: str
) -> None:
    placed = place(bouchet_site, one_gpu, partition=partition)
    assert placed.gpu_type == gpu_type and words in placed.why


REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "gpus": st.integers(1, 64),
        "nodes": st.integers(1, 8),
        "time": st.integers(1, 30 * 86_400).map(format_duration),
        "partition": st.sampled_from(["auto", "gpu_devel", "gpu_h200", "gpu_b200", "scavenge_gpu", "day", "nope"]),
    },
)


@given(REQUESTS)
def test_candidates_are_within_limits_or_refused_with_a_valid_nearest_request(
    bouchet_site: Site, one_gpu: ModelEntry, options: dict[str, Any]
) -> None:
    try:
        placed = place(bouchet_site, one_gpu, **options)
    except LaunchRefusedError as refused:
        assert "\n" not in str(refused)
        nearest = re.search(r"The nearest that would fit: ([^(]*)", str(refused))
        if nearest:
            nearest_options: dict[str, Any] = dict(re.findall(r"--(\w+) (\S+)", nearest[1]))
            numbers: dict[str, Any] = {k: int(v) if v.isdigit() else v for k, v in nearest_options.items()}
            place(bouchet_site, one_gpu, **numbers)
        return
    partition = bouchet_site.partition(placed.partition)
    assert partition is not None
    assert partition.max_gpus is None or placed.gpus <= partition.max_gpus
    assert placed.gpus // placed.nodes <= partition.gpus_per_node
    assert placed.walltime_s <= parse_duration(partition.max_walltime)
    assert placed.cpus <= partition.cpus_per_node and placed.memory_gib <= partition.memory_per_node_gib
