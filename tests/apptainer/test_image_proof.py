"""The figures of `make image-proof`, written into pin.yaml and docs/images.md."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bouchet_core.images import load_pin

from tests.bench.image_proof.__main__ import PINS, gpu_pins, main
from tests.bench.image_proof.disk import used_bytes
from tests.bench.image_proof.figures import BEGIN, END, GIB, ImageProof, gib_to_reserve, row, with_row, with_sizes

ROOT = Path(__file__).parents[2]
PROOF = ImageProof("cuda13-0.32.0", 197, int(3.4 * GIB), 38.2, 131, int(17.3 * GIB), int(4.0 * GIB), 12.4)


@pytest.mark.parametrize("pin", gpu_pins())
def test_pin_yaml_keeps_all_but_its_sizes(pin: str, tmp_path: Path) -> None:
    text = (PINS / pin / "pin.yaml").read_text()
    changed = with_sizes(text, PROOF)
    (tmp_path / pin).mkdir()
    (tmp_path / pin / "pin.yaml").write_text(changed)
    (tmp_path / pin / "requirements.lock").write_bytes((PINS / pin / "requirements.lock").read_bytes())
    read = load_pin(tmp_path / pin)
    assert (read.build_gib, read.image_gib) == (20, 5)
    before, after = text.splitlines(), changed.splitlines()
    assert len(before) == len(after)
    differ = [new for old, new in zip(before, after, strict=True) if old != new]
    assert all(line.startswith(("# what a build takes", "build_gib", "image_gib")) for line in differ)
    assert "by `make image-proof`" in changed and "estimated" not in changed
    assert with_sizes(changed, PROOF) == changed


def test_pin_yaml_without_a_size_is_refused() -> None:
    with pytest.raises(ValueError, match="image_gib"):
        with_sizes("build_gib: 3\n", PROOF)


def test_sizes_have_headroom() -> None:
    assert [gib_to_reserve(int(size * GIB)) for size in (0.1, 4.0, 4.6, 5.2)] == [1, 5, 6, 6]


def test_table_keeps_the_rows_of_other_pins() -> None:
    document = f"before\n\n{BEGIN}\n{END}\n\nafter\n"
    one = with_row(document, replace(PROOF, pin="cuda13-0.33.0", staged_s=None))
    both = with_row(one, PROOF)
    first, second = (line for line in both.splitlines() if line.startswith("| `"))
    assert first == "| `cuda13-0.32.0` | 197, 3.4 GiB | 38 s | 131 s | 17.3 GiB | 4.0 GiB | 12 s |"
    assert second == row(replace(PROOF, pin="cuda13-0.33.0", staged_s=None)) and "staged before" in second
    assert both.startswith("before\n\n") and both.endswith("\n\nafter\n")
    assert with_row(both, PROOF) == both


def test_table_has_its_place_in_the_document() -> None:
    document = (ROOT / "docs" / "images.md").read_text()
    assert document.count(BEGIN) == document.count(END) == 1
    assert row(PROOF) in with_row(document, PROOF)
    with pytest.raises(ValueError, match="no <!--"):
        with_row("no table", PROOF)


def test_disk_of_a_folder_that_changes_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 300_000)
    done = subprocess.run(["du", "-sxk", str(tmp_path)], capture_output=True, text=True, check=True)
    assert 300_000 <= used_bytes(done.stdout) < 400_000
    with pytest.raises(ValueError):
        used_bytes("")


def test_unknown_pin_is_a_sentence_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cuda99"]) == 2 and "there are cuda128-0.19.1" in capsys.readouterr().err
    argv = [sys.executable, "-m", "tests.bench.image_proof", "cpu-0.32.0"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "cpu-0.32.0: no GPU pin" in done.stderr
