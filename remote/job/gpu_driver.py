"""The node's GPUs and driver, and whether they will do for the image. Standard library and Python 3.6 only."""

import json
import os
import re
import subprocess
from typing import Dict, List, Optional, Tuple

TIMEOUT_S = 20
FACTS = ("torch", "cuda", "min_driver", "python", "recipe_sha256")


def gpus_and_driver() -> Tuple[List[str], Optional[str]]:
    """Names of the job's GPUs and the driver's version; nothing on a node without NVIDIA's driver."""
    argv = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return [], None
    rows = [line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line] if done.returncode == 0 else []
    return [row[0].strip() for row in rows], rows[0][1].strip() if rows else None


def image_facts(image: str) -> Dict[str, str]:
    """What the manifest beside the image says of these, where it says it."""
    try:
        with open(re.sub(r"\.sif$", "", image) + ".manifest.json", encoding="utf-8") as source:
            manifest = json.load(source)
        return {name: str(manifest[name]) for name in FACTS if manifest.get(name)}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def problem_with(image: str, facts: Dict[str, str], driver: Optional[str], node: str) -> str:
    """Why the image cannot run on the node, empty when it can, or when nobody wrote down what it needs."""
    needed = facts.get("min_driver")
    if not needed:
        return ""
    name = os.path.basename(image)
    if driver is None:
        return "%s is for GPUs (CUDA %s), and nvidia-smi finds no NVIDIA driver on %s" % (name, facts.get("cuda"), node)
    if numbers(driver) >= numbers(needed):
        return ""
    words = "the driver %s on %s is too old for %s: CUDA %s needs %s or newer; take an image for older drivers "
    advice = "(`image:` in the catalog, or default_image in the site file)"
    return words % (driver, node, name, facts.get("cuda"), needed) + advice


def numbers(version: str) -> Tuple[int, ...]:
    """`580.95.05` as (580, 95, 5)."""
    return tuple(int(part) for part in re.findall(r"\d+", version))
