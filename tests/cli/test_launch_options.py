"""Every launch option of the command line, with values that would harm if anything took them for more than words."""

from __future__ import annotations

import pytest

from .conftest import Bouchet

NASTY = ["a'; echo x", "$(id)", "two\nlines", "ünïcode", "٣", "", "a" * 300, "a=b,c"]
OPTIONS = [
    "--name", "--gpus", "--nodes", "--time", "--partition", "--quant", "--kv-cache-dtype", "--max-len", "--account",
    "--qos", "--constraint", "--as", "--idle-timeout", "--model",
]  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_nasty_values_are_one_line_on_stderr(bouchet: Bouchet, option: str) -> None:
    for value in NASTY:
        words = ["launch", f"{option}={value}", "--no-wait"]
        done = bouchet(*words) if option == "--model" else bouchet(*words, "--model", "Qwen/Qwen3-32B")
        if option == "--as" and not value:
            assert done.status == 0, "no tier is no tier"
            continue
        if (option, value) in {("--gpus", "٣"), ("--nodes", "٣"), ("--idle-timeout", "٣")}:
            continue  # Python reads digits of every script as numbers, and the number is what arrives
        assert done.status in (1, 2), (value, done)
        assert done.out == "" and done.err.startswith("error: ")
        assert done.err.count("\n") == 1
    assert all(not record.request.name for record in bouchet.store.live())


def test_what_fits_nowhere_says_the_options_that_would(bouchet: Bouchet) -> None:
    done = bouchet("launch", "Qwen/Qwen3-32B", "--gpus", "64", "--no-wait")
    assert done.status == 1
    assert "The nearest that would fit: --partition gpu_h200 --gpus 8" in done.err
    assert bouchet.store.live() == []
