"""`bouchet image`: what is shown of images and builds."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from bouchet_cli.client.records import ImageJob
from bouchet_cli.view.images import images_lines, summary_of
from bouchet_core.batch_jobs import BatchJobState

from .conftest import Bouchet

PIN = "cpu-0.32.0"
NOW = datetime.now(UTC)
ROW = {
    "pin": PIN,
    "state": "ready",
    "known": True,
    "in_site": True,
    "is_default": True,
    "bytes": 662331392,
    "sha256": "34e8a3c3" + "0" * 56,
    "vllm": "0.32.0+cpu",
    "torch": "2.13.0+cpu",
    "deployments": ["mine"],
}


def test_the_table_says_versions_size_and_who_uses_it() -> None:
    older = {"pin": "cuda13-0.32.0", "state": "outdated", "known": False, "cuda": "13.0", "min_driver": "580"}
    text = "\n".join(line.plain for line in images_lines([ROW, older], 100))
    assert "0.32.0  2.13.0" in text and "632 MiB" in text and "34e8a3c3" in text and "+cpu" not in text
    assert "serves mine; the site's default" in text
    assert ">=580" in text and "not in the site file" in text and "older recipe" in text and "no pin" in text


def test_a_build_under_way_is_one_line() -> None:
    job = ImageJob("a", PIN, "build", "running", "installing packages", "packages", 73, 140)
    assert summary_of(job) == f"{PIN} running: installing packages: 73 of 140 packages"


def test_without_waiting_it_says_how_to_watch(bouchet: Bouchet) -> None:
    done = bouchet("image", "build", PIN, "--no-wait", "--from", "~/staged")
    assert done.status == 0 and "watches it" in done.out
    record = bouchet.store.images.page(1)[0]
    assert (record.pin, record.source, record.rebuild) == (PIN, "~/staged", False)
    other = bouchet("image", "verify", PIN, "--no-wait")
    assert other.status == 1 and "a build is under way" in other.err
    assert bouchet("image", "build", PIN, "--cancel").status == 0
    assert bouchet.store.images.page(1)[0].stop_requested_at is not None


def test_watched_to_its_end(bouchet: Bouchet) -> None:
    asked = json.loads(bouchet("image", "build", PIN, "--no-wait", "--json").out)["id"]
    change = bouchet.store.images.update
    change(asked, lambda old: old.changed(NOW, state=BatchJobState.RUNNING, reason="packing the image", stage="squash"))
    end = lambda: change(asked, lambda old: old.ended(NOW, BatchJobState.DONE, "built in 99 s"))  # noqa: E731
    done = bouchet.reacting({"packing the image": end}, "image", "build", PIN)
    assert done.status == 0 and f"{PIN}: built in 99 s" in done.out and "packing the image" in done.err


def test_a_failed_build_is_an_error_with_its_log(bouchet: Bouchet) -> None:
    asked = json.loads(bouchet("image", "build", PIN, "--no-wait", "--json").out)["id"]
    fail = lambda old: old.changed(NOW, log="~/logs/7.log").ended(NOW, BatchJobState.FAILED, "the disk is full")  # noqa: E731
    end = lambda: bouchet.store.images.update(asked, fail)  # noqa: E731
    done = bouchet.reacting({"asked for": end}, "image", "build", PIN)
    assert done.status == 1 and "the disk is full (log: ~/logs/7.log)" in done.err


def test_nothing_is_removed_unasked(bouchet: Bouchet) -> None:
    done = bouchet("image", "remove", PIN)
    assert done.status == 2 and "--yes" in done.err


def test_an_unknown_pin_is_told_which_there_are(bouchet: Bouchet) -> None:
    done = bouchet("image", "build", "cpu")
    assert done.status == 1 and PIN in done.err
