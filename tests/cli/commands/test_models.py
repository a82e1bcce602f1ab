"""`bouchet models` and `bouchet download`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from bouchet_core.batch_jobs import BatchJobState, DiskListing, DiskModel, Download

from tests.cli.harness import ALIAS, QWEN, Bouchet, one_line_error

OTHER = "Qwen/Qwen3-Coder-Next-FP8"
NOW = datetime.now(UTC)
RUNNING = BatchJobState.RUNNING
NARROW = ["MODEL", "GPUS", "CTX", "QUANT", "STATUS", "SIZE", "USED"]


def change(bouchet: Bouchet, **fields: object) -> Download:
    """Change the newest download as the worker does."""
    newest = bouchet.store.downloads.page(1)[0]
    return bouchet.store.downloads.update(newest.id, lambda old: old.changed(NOW, **fields))


def finish(bouchet: Bouchet, state: BatchJobState, reason: str, **fields: object) -> Callable[[], Download]:
    """Return a function that ends the newest download."""

    def ended() -> Download:
        newest = bouchet.store.downloads.page(1)[0]
        return bouchet.store.downloads.update(
            newest.id, lambda old: old.changed(NOW, **fields).ended(NOW, state, reason)
        )

    return ended


def interrupt() -> None:
    raise KeyboardInterrupt


def test_models_on_a_narrow_terminal_have_descriptions_below(bouchet: Bouchet) -> None:
    bouchet.launch_ready()
    lines = bouchet("models", COLUMNS="80").out.splitlines()
    assert lines[0].split() == NARROW
    assert max(len(line) for line in lines) <= 80
    assert re.search(r"Qwen/Qwen3-32B +1 +40k +fp8 +unknown +- +now", "\n".join(lines))
    assert any("default" in line for line in lines) and any("ready" in line for line in lines)


def test_models_in_a_pipe_are_one_line_each(bouchet: Bouchet) -> None:
    lines = bouchet("models").out.splitlines()
    assert lines[0].split() == [*NARROW, "NAME", "DESCRIPTION"]
    assert len(lines) == 3
    assert bouchet("--models").out.splitlines() == lines


def test_models_show_what_is_on_the_disk(bouchet: Bouchet) -> None:
    used = NOW - timedelta(days=3, hours=1)
    models = {
        QWEN: DiskModel(state="ready", bytes=65_500_000_000, total_bytes=65_500_000_000, last_used=used),
        OTHER: DiskModel(state="partial", bytes=43, total_bytes=100),
    }
    listing = DiskListing(models=models, free_bytes=2 << 40, listed_at=datetime.now(UTC))
    bouchet.store.downloads.keep_disk(listing)
    done = bouchet("models")
    rows = {line.split()[0]: line for line in done.out.splitlines() if line}
    assert " ready " in rows[QWEN] and "61.0 GiB" in rows[QWEN] and "3d01h ago" in rows[QWEN]
    assert "partial 43 %" in rows[OTHER] and rows["2.0"].startswith("2.0 TiB")


def test_download_without_wait_returns_at_once_and_starts_one(bouchet: Bouchet) -> None:
    done = bouchet("download", ALIAS, "--no-wait")
    assert done.status == 0 and QWEN in done.out and "`bouchet download`" in done.out
    record = bouchet.store.downloads.page(1)[0]
    again = json.loads(bouchet("--download", QWEN, "--no-wait", "--json").out)
    assert again["id"] == record.id and len(bouchet.store.downloads.page()) == 1


def test_download_in_a_pipe_prints_lines_with_bytes(bouchet: Bouchet) -> None:
    bouchet("download", QWEN, "--no-wait")
    change(bouchet, state=RUNNING, reason="downloading", bytes=30 << 30, total_bytes=60 << 30, rate=1 << 30)
    end = finish(bouchet, BatchJobState.DONE, "25 files", bytes=60 << 30)
    done = bouchet.reacting({"running: 30.0 GiB of 60.0 GiB (50 %), 1.0 GiB/s": end}, "download", QWEN)
    assert done.status == 0 and "(60.0 GiB): 25 files" in done.out and "25 files" not in done.err


def test_failed_download_is_one_error_line(bouchet: Bouchet) -> None:
    reason = f"{QWEN} is gated: accept its terms"
    end = finish(bouchet, BatchJobState.FAILED, reason)
    done = bouchet.reacting({"queued": end}, "download", QWEN, "--json")
    assert done.status == 1 and reason in done.err.splitlines()[-1] and done.err.count(reason) == 1
    assert json.loads(done.out)["state"] == "failed"


def test_ctrl_c_leaves_the_download_running(bouchet: Bouchet) -> None:
    done = bouchet.reacting({"queued": interrupt}, "download", QWEN)
    assert done.status == 130 and f"bouchet download {QWEN} --cancel" in done.err
    assert bouchet.store.downloads.page(1)[0].stop_requested_at is None


def test_download_on_a_terminal_is_a_bar(bouchet: Bouchet) -> None:
    bouchet("download", QWEN, "--no-wait")
    change(bouchet, state=RUNNING, reason="downloading", bytes=15 << 30, total_bytes=60 << 30)
    with bouchet.terminal("download", QWEN) as tty:
        tty.until("15.0 GiB of 60.0 GiB (25 %)")
        change(bouchet, bytes=45 << 30, rate=1 << 30, eta_s=15)
        tty.until("(75 %), 1.0 GiB/s, 15s left")
        tty.type("\x03")
        status, rest = tty.rest()
    assert status == 130 and "--cancel" in rest


def test_download_cancel_by_catalog_name(bouchet: Bouchet) -> None:
    bouchet("download", QWEN, "--no-wait")
    assert bouchet("download", ALIAS, "--cancel").status == 0
    assert bouchet.store.downloads.page(1)[0].stop_requested_at is not None
    assert one_line_error(bouchet("download", "org/other", "--cancel"), 3)


def test_download_cancel_of_an_ended_one_says_so(bouchet: Bouchet) -> None:
    bouchet("download", QWEN, "--no-wait")
    finish(bouchet, BatchJobState.FAILED, "no network")()
    done = bouchet("download", ALIAS, "--cancel")
    assert done.status == 0 and f"download of {QWEN} has already ended" in done.out


def test_list_of_downloads_shows_the_newest_of_each_model(bouchet: Bouchet) -> None:
    for _ in range(2):
        bouchet("download", QWEN, "--no-wait")
        finish(bouchet, BatchJobState.FAILED, "no network")()
    bouchet("download", OTHER, "--no-wait")
    listed = bouchet("download").out
    assert listed.count(f"{QWEN} ") == 1 and listed.count(f"{OTHER} ") == 1
    assert len(json.loads(bouchet("download", "--json").out)["downloads"]) == 3


def test_ctrl_c_of_a_revision_names_it_in_the_hint(bouchet: Bouchet) -> None:
    done = bouchet.reacting({"queued": interrupt}, "download", QWEN, "--revision", "v1")
    assert f"`bouchet download {QWEN} --revision v1`" in done.err


def test_download_of_a_misspelled_name_suggests_the_nearest(bouchet: Bouchet) -> None:
    done = bouchet("download", "qwen3-23b")
    assert one_line_error(done, 3) and "did you mean" in done.err


def test_download_without_model_lists_downloads(bouchet: Bouchet) -> None:
    assert bouchet("download").status == 0
    bouchet("download", QWEN, "--no-wait")
    change(bouchet, state=RUNNING, bytes=5, total_bytes=10)
    listed = bouchet("download").out
    assert QWEN in listed and "(50 %)" in listed
    assert json.loads(bouchet("download", "--json").out)["downloads"][0]["bytes"] == 5


def test_download_options_without_model_are_refused(bouchet: Bouchet) -> None:
    assert one_line_error(bouchet("download", "--cancel"), 2)
    assert one_line_error(bouchet("download", QWEN, "--cancel", "--revision", "main"), 2)
