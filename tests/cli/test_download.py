"""`bouchet download` and the catalog's column of what lies on the cluster."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from bouchet_core.batch_jobs import BatchJobState
from bouchet_core.downloads import DiskListing, DiskModel, Download
from bouchet_core.store import Store

from .conftest import Bouchet
from .test_terminal import terminal

QWEN = "Qwen/Qwen3-32B"
NOW = datetime.now(UTC)


def change(store: Store, **fields: object) -> Download:
    """The newest download, changed as the worker would."""
    newest = store.downloads.page(1)[0]
    return store.downloads.update(newest.id, lambda old: old.changed(NOW, **fields))


def watched(bouchet: Bouchet, shown: str, then: Callable[[], object], *words: str) -> tuple[int, str, str]:
    """Status and output of `bouchet download` watching; `then` is called once it has shown that."""
    argv = bouchet.program("download", QWEN, *words)
    with subprocess.Popen(
        argv, env=dict(bouchet.environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stderr is not None
        try:
            assert any(shown in line for line in watching.stderr)
            then()
            out, err = watching.communicate(timeout=60)
        finally:
            watching.kill()
    return watching.returncode, out, err


def test_without_waiting_it_says_where_to_look(bouchet: Bouchet) -> None:
    done = bouchet("download", "bouchet-qwen3-32b", "--no-wait")
    assert done.status == 0 and QWEN in done.out and "`bouchet download`" in done.out
    record = bouchet.store.downloads.page(1)[0]
    again = json.loads(bouchet("--download", QWEN, "--no-wait", "--json").out)
    assert again["id"] == record.id and len(bouchet.store.downloads.page()) == 1


def test_watched_without_a_terminal_it_is_lines_with_real_bytes(bouchet: Bouchet) -> None:
    assert bouchet("download", QWEN, "--no-wait").status == 0
    store = bouchet.store
    change(store, state=BatchJobState.RUNNING, reason="fetching", bytes=30 << 30, total_bytes=60 << 30, rate=1 << 30)

    def finish() -> None:
        newest = store.downloads.page(1)[0]
        store.downloads.update(
            newest.id, lambda old: old.changed(NOW, bytes=60 << 30).ended(NOW, BatchJobState.DONE, "25 files")
        )

    status, out, _ = watched(bouchet, "running: 30.0 GiB of 60.0 GiB (50 %), 1.0 GiB/s", finish)
    assert (status, "is on the cluster (60.0 GiB): 25 files" in out) == (0, True), out


def test_a_failure_is_one_line_and_status_1(bouchet: Bouchet) -> None:
    bouchet("download", QWEN, "--no-wait")
    newest = bouchet.store.downloads.page(1)[0]
    sentence = f"{QWEN} is gated: accept its terms"

    def fail() -> None:
        bouchet.store.downloads.update(newest.id, lambda old: old.ended(NOW, BatchJobState.FAILED, sentence))

    status, out, err = watched(bouchet, "queued", fail, "--json")
    assert status == 1 and sentence in err.splitlines()[-1]
    assert json.loads(out)["state"] == "failed"


def test_ctrl_c_leaves_it_running_and_says_so(bouchet: Bouchet) -> None:
    watching = subprocess.Popen(
        bouchet.program("download", QWEN), env=dict(bouchet.environment), stderr=subprocess.PIPE, text=True
    )
    assert watching.stderr is not None
    assert "queued" in watching.stderr.readline()
    watching.send_signal(signal.SIGINT)
    said = watching.stderr.read()
    assert watching.wait(60) == 130 and "goes on without you" in said and "--cancel" in said
    watching.stderr.close()
    assert bouchet.store.downloads.page(1)[0].stop_requested_at is None


def test_on_a_terminal_it_is_a_bar_of_real_bytes(bouchet: Bouchet) -> None:
    bouchet("download", QWEN, "--no-wait")
    change(bouchet.store, state=BatchJobState.RUNNING, reason="fetching", bytes=15 << 30, total_bytes=60 << 30)
    with terminal(bouchet.program("download", QWEN), {**bouchet.environment, "COLUMNS": "110"}) as screen:
        screen.until("15.0 GiB of 60.0 GiB (25 %)")
        change(bouchet.store, bytes=45 << 30, rate=1 << 30, eta_s=15)
        screen.until("(75 %), 1.0 GiB/s, 15s left")
        screen.type("\x03")
        status, rest = screen.rest()
    assert status == 130 and "goes on without you" in rest


def test_cancel_by_the_catalogs_name(bouchet: Bouchet) -> None:
    bouchet("download", QWEN, "--no-wait")
    done = bouchet("download", "bouchet-qwen3-32b", "--cancel")
    assert (done.status, "what has come is kept" in done.out) == (0, True), done
    assert bouchet.store.downloads.page(1)[0].stop_requested_at is not None
    done = bouchet("download", "org/other", "--cancel")
    assert done.status == 1 and "bouchet download MODEL" in done.err


def test_a_typo_is_one_line_with_the_nearest(bouchet: Bouchet) -> None:
    done = bouchet("download", "qwen3-23b")
    assert done.status == 1 and "did you mean" in done.err and len(done.err.splitlines()) == 1


def test_without_a_model_it_lists(bouchet: Bouchet) -> None:
    assert "no downloads yet" in bouchet("download").out
    bouchet("download", QWEN, "--no-wait")
    change(bouchet.store, state=BatchJobState.RUNNING, bytes=5, total_bytes=10)
    listed = bouchet("download").out
    assert QWEN in listed and "(50 %)" in listed
    assert json.loads(bouchet("download", "--json").out)["downloads"][0]["bytes"] == 5


def test_the_catalog_says_what_lies_on_the_cluster(bouchet: Bouchet) -> None:
    used = NOW - timedelta(days=3, hours=1)
    other = "Qwen/Qwen3-Coder-Next-FP8"
    bouchet.store.downloads.keep_disk(
        DiskListing(
            models={
                QWEN: DiskModel(state="ready", bytes=65_500_000_000, total_bytes=65_500_000_000, last_used=used),
                other: DiskModel(state="partial", bytes=43, total_bytes=100),
            },
            free_bytes=2 << 40,
            listed_at=datetime.now(UTC),
        )
    )
    began = time.monotonic()
    rows = {line.split()[0]: line for line in bouchet("models", COLUMNS="160").out.splitlines() if line}
    assert time.monotonic() - began < 40
    assert " ready " in rows[QWEN] and "61.0 GiB" in rows[QWEN] and "3d01h ago" in rows[QWEN]
    assert "partial 43 %" in rows[other] and rows["2.0"] == "2.0 TiB are free on the models' disk"
