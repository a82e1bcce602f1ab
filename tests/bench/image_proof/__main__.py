"""`make image-proof`: stages, builds and verifies GPU pins on the demo cluster; writes down what that takes.

`python -m tests.bench.image_proof [PIN ...]`, all GPU pins without one. Times and sizes go into docs/images.md and the
pin's pin.yaml. Staged files stay for the next time (`make clean` removes them), images do not. BOUCHET_TEST_KEEP=1
leaves the stack running; one that runs is used as it is.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bouchet_core.images import load_pins

from demo.commands import run
from demo.provision import read_layout
from demo.staging import STAGING
from setup.image_stage import pin_facts
from tests.stack.harness import ROOT, Stack, open_stack, say

from .disk import DiskWatch
from .figures import ImageProof, row, with_row, with_sizes

PINS, DOCUMENT = ROOT / "apptainer" / "pins", ROOT / "docs" / "images.md"
BASE_TIMEOUT_S, STAGE_TIMEOUT_S = 900.0, 3600.0
BUILD_TIMEOUT_S, VERIFY_TIMEOUT_S = 3600.0, 1200.0


def main(names: Sequence[str]) -> int:
    """Prove each pin, write its figures down at once, and print them; return 2 for an unknown pin."""
    known = gpu_pins()
    chosen = [name for name in names if name] or known
    if unknown := [name for name in chosen if name not in known]:
        print(f"error: {', '.join(unknown)}: no GPU pin; there are {', '.join(known)}", file=sys.stderr)
        return 2
    stack = open_stack()
    try:
        done = stack.make("up")
        assert done.status == 0, done.output
        for name in chosen:
            proof = prove(stack, name)
            write_down(proof)
            print(row(proof), flush=True)
    finally:
        if not os.environ.get("BOUCHET_TEST_KEEP"):
            stack.remove()
        stack.close()
    return 0


def gpu_pins() -> list[str]:
    """Return the pins with CUDA and a lock, by name."""
    return [name for name, pin in load_pins(PINS).items() if pin.cuda is not None and pin.oci is None]


def prove(stack: Stack, pin: str) -> ImageProof:
    """Stage, build and verify one image, by the commands that docs/images.md shows; the image is removed in the end."""
    folder = read_layout(os.environ).staging / pin
    staged_s = stage(stack, pin, folder)
    wheels = list((folder / "wheels").glob("*.whl"))
    watcher = open_stack()
    try:
        say(f"image-proof: {pin}: build")
        with DiskWatch(watcher) as disk:
            source = str(STAGING / pin)
            built = finished(stack, "build", pin, "--from", source, "--rebuild", timeout_s=BUILD_TIMEOUT_S)
        say(f"image-proof: {pin}: verify")
        started = time.monotonic()
        verified = finished(stack, "verify", pin, timeout_s=VERIFY_TIMEOUT_S)
        verified_s = time.monotonic() - started
    finally:
        watcher.close()
        stack.bouchet("image", "remove", pin, "--yes")
    assert verified["sha256"] == built["sha256"], (built, verified)
    return ImageProof(
        pin=pin,
        wheels=len(wheels),
        wheels_bytes=sum(path.stat().st_size for path in wheels),
        staged_s=staged_s,
        built_s=built["seconds"],
        peak_bytes=disk.peak_bytes,
        image_bytes=built["bytes"],
        verified_s=verified_s,
    )


def stage(stack: Stack, pin: str, folder: Path) -> float | None:
    """Stage the pin where the nodes see it; return the seconds that it took, None where all was there."""
    was_there = (folder / "wheels" / ".complete").is_file() and (folder / "base.tar").is_file()
    say(f"image-proof: {pin}: stage into {folder}")
    if not was_there:
        # made here where no registry answers, as for the demo's own image
        base = pin_facts(ROOT, pin)["base"]
        suite = base.partition(":")[2].removesuffix("-slim")
        run(["bash", str(ROOT / "demo" / "base_image.sh"), base, suite], timeout_s=BASE_TIMEOUT_S)
    started = time.monotonic()
    done = stack.bouchet("image", "stage", pin, str(folder), timeout_s=STAGE_TIMEOUT_S)
    assert done.status == 0, done.output
    # the demo's user is another one than whoever runs this
    for path in (folder, folder / "wheels"):
        path.chmod(0o755)
    return None if was_there else time.monotonic() - started


def finished(stack: Stack, action: str, *arguments: str, timeout_s: float) -> dict[str, Any]:
    """Run `bouchet image ACTION ...` to its end and return its record."""
    done = stack.bouchet("image", action, *arguments, "--json", timeout_s=timeout_s)
    assert done.status == 0, done.output
    record: dict[str, Any] = json.loads(done.stdout)
    assert record["state"] == "done", record
    return record


def write_down(proof: ImageProof) -> None:
    """Write the figures of one pin into its pin.yaml and into the table of docs/images.md."""
    facts = PINS / proof.pin / "pin.yaml"
    facts.write_text(with_sizes(facts.read_text(), proof))
    DOCUMENT.write_text(with_row(DOCUMENT.read_text(), proof))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
