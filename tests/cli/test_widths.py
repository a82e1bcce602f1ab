"""Output at widths of 60 to 200 columns and in a pipe: messages lose no word, tables cut no number and no name."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

import pytest
from bouchet_core.batch_jobs import DiskListing, DiskModel
from bouchet_core.usage import UsageRecord

from tests.cli.harness import QWEN, Bouchet
from tests.waiting import wait_for

WIDTHS = ("60", "80", "100", "200")
MESSAGES = (
    ("launch", "Qwen/Qwen3-23B"),
    ("launch", QWEN, "--name", "Ä b", "--time", "6h"),
    ("launch", QWEN, "--time", "banana"),
    ("keys", "add", "Not A Name", "--expires", "soon"),
    ("image", "build", "cpu"),
    ("status", "nothing-of-this-name"),
    ("models", "remove", QWEN),
    ("setup",),
    ("--bogus",),
    ("chat",),
)
TABLES = (("models",), ("status",), ("usage",), ("usage", "--by", "model"), ("keys",), ("download",))
NUMBER = re.compile(r"\d[\d.,:]*")


@pytest.fixture
def full(bouchet: Bouchet) -> Bouchet:
    """Return a stack with a deployment, a key, usage, a download and weights."""
    bouchet.launch_ready()
    bouchet("keys", "add", "alice", "--requests-per-minute", "1200", "--expires", "30d")
    record = UsageRecord(
        at=time.time(), key="alice", model=QWEN, session="", deployment="d1", endpoint="/v1/messages", status=200,
        error="", input=123_456, cached=112_000, output=5_678, first_ms=340, generating_ms=10_000,
    )  # fmt: skip
    bouchet.store.usage.add([record])
    wait_for(lambda: "alice" in bouchet("usage").out)
    bouchet("download", QWEN, "--no-wait")
    models = {QWEN: DiskModel(state="ready", bytes=65_527_752_704, total_bytes=65_527_752_704)}
    bouchet.store.downloads.keep_disk(DiskListing(models=models, free_bytes=1 << 40, listed_at=datetime.now(UTC)))
    return bouchet


@pytest.mark.parametrize("arguments", MESSAGES, ids=" ".join)
def test_messages_are_whole_at_every_width(bouchet: Bouchet, arguments: tuple[str, ...]) -> None:
    piped = bouchet(*arguments)
    assert piped.err and "…" not in piped.err
    for width in WIDTHS:
        shown = bouchet(*arguments, COLUMNS=width)
        assert shown.err.split() == piped.err.split(), width


@pytest.mark.parametrize("arguments", TABLES, ids=" ".join)
def test_tables_cut_no_number_and_no_name(full: Bouchet, arguments: tuple[str, ...]) -> None:
    piped = full(*arguments)
    assert piped.status == 0 and "…" not in piped.out
    whole = set(piped.out.split())
    for width in WIDTHS:
        shown = full(*arguments, COLUMNS=width).out
        words = shown.split()
        cut = [word for word in words if "…" in word and (NUMBER.search(word) or "/" in word)]
        assert cut == [], (width, shown)
        # ages may differ by a second
        numbers = {word for word in words if NUMBER.fullmatch(word)}
        assert numbers <= whole, (width, numbers - whole)
