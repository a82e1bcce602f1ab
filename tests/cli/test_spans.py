"""Times and token counts as people type them."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest
from bouchet_cli.spans import parse_minutes, parse_tokens, parse_walltime

from tests.cli.harness import QWEN, Bouchet


@pytest.mark.parametrize(
    ("text", "walltime"),
    [
        ("6h", "06:00:00"), ("90m", "01:30:00"), ("2d", "2-00:00:00"), ("1h30m", "01:30:00"), ("1d12h", "1-12:00:00"),
        ("06:00:00", "06:00:00"), ("2-00:00:00", "2-00:00:00"), ("30", "30"), ("1w", "7-00:00:00"),
    ],
)  # fmt: skip
def test_walltime_in_slurms_format(text: str, walltime: str) -> None:
    assert parse_walltime(text) == walltime


def test_minutes_and_tokens() -> None:
    assert [parse_minutes(text) for text in ("45", "2h", "1d", "0")] == [45, 120, 1440, 0]
    assert [parse_tokens(text) for text in ("40960", "64k", "1M")] == [40960, 65536, 1048576]


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_walltime, "banana"), (parse_walltime, "0h"), (parse_walltime, "6x"), (parse_walltime, ""),
        (parse_minutes, "-5"), (parse_minutes, "2 h"), (parse_minutes, ""), (parse_tokens, "64kb"),
        (parse_tokens, "-1"), (parse_tokens, "1.5k"),
    ],
)  # fmt: skip
def test_other_text_is_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse(text)


def test_launch_takes_spans(bouchet: Bouchet) -> None:
    done = bouchet("launch", QWEN, "--time", "6h", "--max-len", "32k", "--idle-timeout", "2h", "--no-wait", "--json")
    assert done.status == 0, done.err
    (record,) = bouchet.store.live()
    assert (record.request.time, record.request.max_len, record.request.idle_timeout_min) == ("06:00:00", 32768, 120)


def test_part_of_an_id_or_name_is_enough(bouchet: Bouchet) -> None:
    identity = bouchet.launch_ready()
    assert bouchet("status", identity[:4]).status == 0
    assert bouchet("status", "qwen3-32b").status == 0
    other = bouchet.launch(QWEN, "--name", "mine-32b")
    done = bouchet("status", "32b")
    assert done.status == 2 and identity in done.err and other in done.err
    assert bouchet("cancel", "qwen3-32b").status == 0
    assert bouchet.store.get(identity).stop_requested_at is not None


def test_launch_takes_the_end_of_a_catalog_name(bouchet: Bouchet) -> None:
    assert bouchet("launch", "coder-next-fp8", "--no-wait").status == 0
    assert bouchet.store.live()[0].model == "Qwen/Qwen3-Coder-Next-FP8"
