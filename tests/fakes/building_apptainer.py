#!/usr/bin/env python3
"""A fake `apptainer build`, `inspect` and `exec`: an image is the text of its build arguments.

FAKE_BUILD: `fails`, or `hangs` until SIGTERM.
"""

import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path


def build(argv: list[str]) -> None:
    """Write the image: bootstrap, base and all other arguments of the recipe. Binds are refused as Apptainer does."""
    for source in (bind.split(":")[0] for flag, bind in itertools.pairwise(argv) if flag == "--bind"):
        if not source.startswith("/"):
            sys.exit(f"FATAL:   mount source /{source} doesn't exist")
    image, given = Path(argv[-2]), Path(argv[argv.index("--build-arg-file") + 1]).read_text()
    (Path(os.environ["APPTAINER_TMPDIR"]) / "unpacked").mkdir()
    image.write_text(given)
    if os.environ.get("FAKE_BUILD") == "fails":
        sys.exit("FATAL:   While performing build: no")
    if os.environ.get("FAKE_BUILD") == "hangs":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        print("hangs", flush=True)
        time.sleep(60)


def inspect(argv: list[str]) -> None:
    """Print the labels as JSON."""
    given = dict(line.split("=", 1) for line in Path(argv[-1]).read_text().splitlines())
    labels = {f"bouchet.{name}": value for name, value in given.items()}
    print(json.dumps({"data": {"attributes": {"labels": labels}}}))


def run(argv: list[str]) -> None:
    """Print what manifest.py would in the image: the hashes of recipe and image, and the base."""
    image = Path(next(argument for argument in argv if argument.endswith(".sif")))
    given = dict(line.split("=", 1) for line in image.read_text().splitlines())
    scratch = next(argument for argument in argv if argument.endswith(":/srv:ro")).removesuffix(":/srv:ro")
    base = Path(scratch, "base")
    known = {"base": base.read_text().strip()} if base.exists() else {}
    print(json.dumps({"recipe_sha256": given["recipe_sha256"], "sif_sha256": argv[-1], **known}))


{"build": build, "inspect": inspect, "exec": run}[sys.argv[1]](sys.argv[2:])
