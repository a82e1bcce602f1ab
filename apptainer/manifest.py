"""Print what an image holds, as JSON. Run by the image's own Python.

usage: manifest.py PIN RECIPE_SHA256 SIF_SHA256
"""

import json
import platform
import re
import sys
from importlib.metadata import distributions
from pathlib import Path


def describe(pin: str, recipe_sha256: str, sif_sha256: str) -> dict[str, object]:
    """The manifest of the image in which this runs."""
    packages = {dist.name.lower(): dist.version for dist in distributions()}
    return {
        "pin": pin,
        "recipe_sha256": recipe_sha256,
        "sif_sha256": sif_sha256,
        "python": platform.python_version(),
        "vllm": packages["vllm"],
        "torch": packages["torch"],
        **needs(Path(__file__).with_name("pin.yaml").read_text()),
        "packages": dict(sorted(packages.items())),
    }


def needs(pin: str) -> dict[str, str]:
    """What pin.yaml says of CUDA and of the oldest driver; nothing for an image without CUDA."""
    return dict(re.findall(r"^(cuda|min_driver): *\"([^\"]+)\"", pin, re.M))


if __name__ == "__main__":
    json.dump(describe(*sys.argv[1:4]), sys.stdout, indent=2)
    print()
