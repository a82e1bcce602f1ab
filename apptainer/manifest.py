"""Print what an image contains, as JSON. Run by the image's own Python.

usage: manifest.py SIF_SHA256

Reads pin.yaml next to this file; in /srv, labels.json (`apptainer inspect`), base (where the distribution came from,
for pins with a lock) and, if Apptainer pulled an image from a registry, fetched.json (the index of what it pulled).
"""

import json
import platform
import re
import sys
from importlib.metadata import distributions
from pathlib import Path

BUILD = Path("/srv")


def describe(sif_sha256: str, labels: dict[str, str], pin: str, fetched: str, base: str) -> dict[str, object]:
    """Return the manifest of the image in which this runs.

    fetched: an OCI index, empty where nothing was pulled. base: a reference or an archive's hash, empty for OCI images.
    """
    packages = {dist.name.lower(): dist.version for dist in distributions()}
    own = {name.removeprefix("bouchet."): value for name, value in labels.items() if name.startswith("bouchet.")}
    return {
        "pin": own["pin"],
        "recipe_sha256": own["recipe_sha256"],
        "sif_sha256": sif_sha256,
        "lock_sha256": none_if_unset(own["lock_sha256"]),
        "oci": none_if_unset(own["oci"]),
        "oci_manifest": platform_digest(fetched) if none_if_unset(own["oci"]) else None,
        "base": base.strip() or None,
        "base_manifest": platform_digest(fetched) if base else None,
        "commit": none_if_unset(own["commit"]),
        "arch": platform.machine(),
        "python": platform.python_version(),
        "vllm": packages["vllm"],
        "torch": packages["torch"],
        **cuda_requirements(pin),
        "packages": dict(sorted(packages.items())),
    }


def none_if_unset(value: str) -> "str | None":
    """Return a label's value, None for the placeholders `none` and `unknown`."""
    return None if value in ("none", "unknown") else value


def platform_digest(index: str) -> "str | None":
    """Return the digest of the image for this platform, to which a multi-platform digest was resolved."""
    digests: list[str] = [entry["digest"] for entry in json.loads(index)["manifests"]] if index else []
    return digests[-1] if digests else None


def cuda_requirements(pin: str) -> dict[str, str]:
    """Return cuda and min_driver of pin.yaml; nothing for an image without CUDA."""
    return dict(re.findall(r"^(cuda|min_driver): *\"([^\"]+)\"", pin, re.M))


def read(path: Path) -> str:
    """Return the text of a file, empty where there is none."""
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    labels = json.loads(read(BUILD / "labels.json"))["data"]["attributes"]["labels"]
    pin_yaml = Path(__file__).with_name("pin.yaml").read_text()
    json.dump(
        describe(sys.argv[1], labels, pin_yaml, read(BUILD / "fetched.json"), read(BUILD / "base")),
        sys.stdout,
        indent=2,
    )
    print()
