#!/usr/bin/env python3
"""Stands for `apptainer build`, `inspect` and `exec`: an image is the text of what it was asked to be made from.

FAKE_BUILD: `fails`, or `hangs` until it is told to end.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def build(words: list[str]) -> None:
    """Writes the image; its text holds bootstrap, base and all other arguments of the recipe."""
    image, given = Path(words[-2]), Path(words[words.index("--build-arg-file") + 1]).read_text()
    (Path(os.environ["APPTAINER_TMPDIR"]) / "unpacked").mkdir()
    image.write_text(given)
    if os.environ.get("FAKE_BUILD") == "fails":
        sys.exit("FATAL:   While performing build: no")
    if os.environ.get("FAKE_BUILD") == "hangs":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        print("hangs", flush=True)
        time.sleep(60)


def inspect(words: list[str]) -> None:
    """The labels, as JSON."""
    given = dict(line.split("=", 1) for line in Path(words[-1]).read_text().splitlines())
    labels = {f"bouchet.{name}": word for name, word in given.items()}
    print(json.dumps({"data": {"attributes": {"labels": labels}}}))


def run(words: list[str]) -> None:
    """Stands for manifest.py in the image: the recipe's hash and the image's own."""
    image = Path(next(word for word in words if word.endswith(".sif")))
    given = dict(line.split("=", 1) for line in image.read_text().splitlines())
    print(json.dumps({"recipe_sha256": given["recipe_sha256"], "sif_sha256": words[-1]}))


{"build": build, "inspect": inspect, "exec": run}[sys.argv[1]](sys.argv[2:])
