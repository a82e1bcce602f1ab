"""Print what an image holds, as JSON. Run by the image's own Python.

usage: manifest.py SIF_SHA256

Beside this file lies pin.yaml; in /srv, labels.json (`apptainer inspect`) and perhaps fetched.json, the index of what
Apptainer fetched from a registry.
"""

import json
import platform
import re
import sys
from importlib.metadata import distributions
from pathlib import Path

BUILD = Path("/srv")


def describe(sif_sha256: str, labels: dict[str, str], pin: str, fetched: str) -> dict[str, object]:
    """The manifest of the image in which this runs. fetched: an OCI index, empty where nothing was fetched."""
    packages = {dist.name.lower(): dist.version for dist in distributions()}
    said = {name.removeprefix("bouchet."): word for name, word in labels.items() if name.startswith("bouchet.")}
    return {
        "pin": said["pin"],
        "recipe_sha256": said["recipe_sha256"],
        "sif_sha256": sif_sha256,
        "lock_sha256": known(said["lock_sha256"]),
        "oci": known(said["oci"]),
        "oci_manifest": manifest_of(fetched) if known(said["oci"]) else None,
        "commit": known(said["commit"]),
        "python": platform.python_version(),
        "vllm": packages["vllm"],
        "torch": packages["torch"],
        **needs(pin),
        "packages": dict(sorted(packages.items())),
    }


def known(word: str) -> "str | None":
    """A label's word, None where it stands for nothing."""
    return None if word in ("none", "unknown") else word


def manifest_of(index: str) -> "str | None":
    """The digest of the image for this platform: what a digest of several platforms was resolved to."""
    digests = [entry["digest"] for entry in json.loads(index)["manifests"]] if index else []
    return digests[-1] if digests else None


def needs(pin: str) -> dict[str, str]:
    """What pin.yaml says of CUDA and of the oldest driver; nothing for an image without CUDA."""
    return dict(re.findall(r"^(cuda|min_driver): *\"([^\"]+)\"", pin, re.M))


def read(path: Path) -> str:
    """The text, empty where there is no such file."""
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    shown = json.loads(read(BUILD / "labels.json"))["data"]["attributes"]["labels"]
    own = Path(__file__).with_name("pin.yaml").read_text()
    json.dump(describe(sys.argv[1], shown, own, read(BUILD / "fetched.json")), sys.stdout, indent=2)
    print()
