"""Checks of storage, images, drivers and catalog."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from bouchet_core.config.catalog import Catalog
from bouchet_core.config.site import Site
from bouchet_core.doctor import Verdict
from bouchet_worker.doctor.checks import (
    OLDEST_DRIVER,
    catalog_checks,
    clock_check,
    driver_checks,
    image_checks,
    image_path,
    storage_checks,
)

from tests.worker.scenario import REPOSITORY

from .cluster_output import probe_result, verdicts

PINS = REPOSITORY / "apptainer" / "pins"
FULL = {"exists": True, "writable": True, "nearest": "/", "free": 1 << 20, "total": 1000 << 30}
LOW = {**FULL, "free": 2 << 30}
LOCKED = {**FULL, "writable": False, "free": 900 << 30}
EXPOSED = {**FULL, "free": 900 << 30, "exposed": "/gpfs/group is writable for its group"}
ABSENT = {**FULL, "exists": False, "free": 900 << 30}
ABSENT_IN_LOCKED = {**ABSENT, "writable": False, "nearest": "/gpfs"}
UNREADABLE = {"exists": False, "error": "Permission denied"}


@pytest.mark.parametrize(
    ("field", "state", "verdict", "message"),
    [
        ("root", FULL, "fail", "0.0 GiB of 1000 GiB free"),
        ("root", LOW, "warn", "2.0 GiB"),
        ("root", LOCKED, "fail", "not writable"),
        ("root", EXPOSED, "warn", "other users can replace it: /gpfs/group is writable for its group"),
        ("models_dir", EXPOSED, "pass", "900 GiB"),
        ("models_dir", LOCKED, "pass", "read-only"),
        ("models_dir", ABSENT_IN_LOCKED, "fail", "/gpfs is not writable"),
        ("images_dir", ABSENT, "warn", "does not exist yet"),
        ("scratch_dir", UNREADABLE, "fail", "Permission denied"),
    ],
)
def test_storage_check_of_directory(
    bouchet_site: Site, field: str, state: dict[str, Any], verdict: str, message: str
) -> None:
    probe = probe_result(bouchet_site, quota="project 10 1000 1%")
    probe["directories"][getattr(bouchet_site, field)] = state
    check = next(c for c in storage_checks(bouchet_site, probe) if c.name.startswith(field))
    assert (check.verdict.value, message in check.message) == (verdict, True), check


def test_storage_checks_of_healthy_login_node_pass(bouchet_site: Site) -> None:
    checks = storage_checks(bouchet_site, probe_result(bouchet_site, quota="project 10 1000 1%"))
    assert set(verdicts(checks).values()) == {"pass"}


def test_quota_check_warns_with_the_full_line(bouchet_site: Site) -> None:
    probe = probe_result(bouchet_site, quota="fs  used  quota\nproject 950 1000 95%\nhome 1 125 1%")
    check = storage_checks(bouchet_site, probe)[-1]
    assert (check.verdict, check.message) == (Verdict.WARN, "project 950 1000 95%")


@pytest.mark.parametrize(("left", "verdict"), [(1 << 30, Verdict.WARN), (900 << 30, Verdict.PASS)])
def test_quota_check_judges_bytes_left_below_models_dir(bouchet_site: Site, left: int, verdict: Verdict) -> None:
    check = storage_checks(bouchet_site, probe_result(bouchet_site, quota="a table", quota_left=left))[-1]
    assert check.verdict is verdict and f"left below {bouchet_site.models_dir}" in check.message


def test_quota_check_without_numbers_or_command_is_unknown(demo_site: Site, bouchet_site: Site) -> None:
    assert storage_checks(demo_site, probe_result(demo_site))[-1].verdict is Verdict.UNKNOWN
    probe = probe_result(bouchet_site, quota="getquota: command not found")
    assert storage_checks(bouchet_site, probe)[-1].verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(("now", "verdict"), [(30.0, "pass"), (90.0, "warn"), (-90.0, "warn")])
def test_clock_check_allows_one_minute(demo_site: Site, now: float, verdict: str) -> None:
    assert clock_check(probe_result(demo_site), now).verdict.value == verdict


@pytest.mark.parametrize(
    ("change", "verdict", "message"),
    [
        ({}, "pass", "a job computes it before the first use"),
        ({"computed": "a" * 64}, "pass", "computed by a job"),
        ({"computed": "b" * 64}, "fail", "its sha256 is bbbbbbbbbbbb..., recorded is aaaaaaaaaaaa..."),
        ({"recorded": None}, "fail", "no recorded hash"),
        ({"exists": False}, "fail", "does not exist"),
        ({"readable": False}, "fail", "not readable"),
    ],
)
def test_image_check_of_default_image(demo_site: Site, change: dict[str, Any], verdict: str, message: str) -> None:
    probe = probe_result(demo_site)
    path = image_path(demo_site, demo_site.images[0])
    probe["images"][path] = {**probe["images"][path], **change}
    [check] = image_checks(demo_site, probe)
    assert (check.verdict.value, message in check.message) == (verdict, True), check


def test_image_check_of_other_image_only_warns(bouchet_site: Site) -> None:
    probe = probe_result(bouchet_site)
    probe["images"] = {path: {"exists": False} for path in probe["images"]}
    checks = list(image_checks(bouchet_site, probe))
    assert verdicts(checks) == {"cuda13-0.32.0": "fail", "cuda128-0.19.1": "warn"}


@pytest.mark.parametrize(
    ("version", "job", "expected"),
    [
        (None, "", {"driver": "unknown"}),
        (None, "job 7", {"driver": "unknown"}),
        ("575.57.08", "job 7", {"driver for cuda13-0.32.0": "fail", "driver for cuda128-0.19.1": "pass"}),
        ("none", "job 7", {"driver for cuda13-0.32.0": "unknown", "driver for cuda128-0.19.1": "unknown"}),
    ],
)
def test_driver_checks_compare_with_each_images_cuda(
    bouchet_site: Site, version: str | None, job: str, expected: dict[str, str]
) -> None:
    checks = driver_checks(bouchet_site, version, job)
    assert verdicts(checks) == expected and all(job in check.message for check in checks)


def test_driver_checks_of_site_without_gpu_images_pass(demo_site: Site) -> None:
    assert verdicts(driver_checks(demo_site, None, "")) == {"driver": "pass"}


def test_oldest_drivers_match_pins() -> None:
    pins = {p.parent.name: yaml.safe_load(p.read_text())["min_driver"] for p in PINS.glob("*/pin.yaml")}
    assert len(pins) >= 3
    for pin, oldest in pins.items():
        needed = [str(driver) for name, driver in OLDEST_DRIVER.items() if pin.startswith(name)]
        assert needed == ([oldest] if oldest else []), pin


def test_catalog_checks_of_complete_catalog_pass(demo_site: Site, catalog: Catalog) -> None:
    assert demo_site.default_model is not None
    assert set(verdicts(catalog_checks(catalog, demo_site, [demo_site.default_model])).values()) == {"pass"}


def test_catalog_checks_warn_without_default_model(demo_site: Site, catalog: Catalog) -> None:
    assert verdicts(catalog_checks(catalog, demo_site, []))["models"] == "warn"


def test_catalog_checks_find_shared_alias_and_unknown_image(bouchet_site: Site, catalog: Catalog) -> None:
    entry = next(iter(catalog.entries.values()))
    clash = Catalog({"a/a": entry, "b/b": entry.model_copy(update={"image": "nosuch"})})
    checks = {check.name: check for check in catalog_checks(clash, bouchet_site, ["a/a"])}
    assert checks["aliases"].verdict is Verdict.FAIL and "a/a and b/b" in checks["aliases"].message
    assert checks["images"].verdict is Verdict.WARN and "'nosuch'" in checks["images"].message
