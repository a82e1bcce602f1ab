"""What a job's vLLM runs with: GPUs, driver, image, container; for checks and the connection file. Python 3.6."""

import os
import re
import subprocess
from typing import Any, Dict, List, Optional, Tuple

from image_file import read_manifest
from model_folder import is_quantized

NVIDIA_SMI_TIMEOUT_S = 20
IMAGE_FACTS = ("torch", "cuda", "min_driver", "python", "recipe_sha256")


def gpus_and_driver() -> Tuple[List[str], Optional[str]]:
    """Return the names of the job's GPUs and the driver's version; ([], None) without NVIDIA's driver."""
    argv = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            universal_newlines=True,
            timeout=NVIDIA_SMI_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return [], None
    rows = [line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line] if done.returncode == 0 else []
    return [row[0].strip() for row in rows], rows[0][1].strip() if rows else None


def image_facts(image: str) -> Dict[str, str]:
    """Return those of IMAGE_FACTS that the image's manifest has."""
    manifest = read_manifest(image)
    return {name: str(manifest[name]) for name in IMAGE_FACTS if manifest.get(name)}


def driver_problem(image: str, facts: Dict[str, str], driver: Optional[str], node: str) -> str:
    """Return why the image cannot run with the node's driver; empty when it can, or needs no particular one."""
    needed = facts.get("min_driver")
    if not needed:
        return ""
    name, cuda = os.path.basename(image), facts.get("cuda")
    if driver is None:
        return "%s needs a GPU (CUDA %s), and nvidia-smi finds no NVIDIA driver on %s" % (name, cuda, node)
    if version_numbers(driver) >= version_numbers(needed):
        return ""
    message = "the driver %s on %s is too old for %s: CUDA %s needs %s or newer; choose an image for older drivers "
    advice = "(`image:` in the catalog, or default_image in the site file)"
    return message % (driver, node, name, cuda, needed) + advice


def version_numbers(version: str) -> Tuple[int, ...]:
    """Return `580.95.05` as (580, 95, 5)."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def describe_software(image: Dict[str, str], arguments: List[str], model: str) -> Dict[str, Any]:
    """Return what the image contains and how the weights are quantized. arguments: of `vllm serve`."""
    if "--quantization" in arguments:
        quant = arguments[arguments.index("--quantization") + 1]
    else:
        quant = "checkpoint" if is_quantized(model) else "none"
    return {
        "cuda": image.get("cuda"),
        "python": image.get("python"),
        "recipe_sha256": image.get("recipe_sha256"),
        "quant": quant,
    }


def read_container_command(scratch: str) -> Dict[str, Any]:
    """Return Apptainer's argv and the container's environment, as node.sh wrote them. Neither contains the key."""
    pairs = _read_zero_terminated(os.path.join(scratch, "environment"))
    return {
        "container": _read_zero_terminated(os.path.join(scratch, "container")),
        "environment": dict(pair.split("=", 1) for pair in pairs),
    }


def _read_zero_terminated(path: str) -> List[str]:
    with open(path, encoding="utf-8", errors="replace") as source:
        return source.read().split("\0")[:-1]
