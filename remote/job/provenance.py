"""What a job's vLLM runs with, for the record. Standard library and Python 3.6 only."""

import os
from typing import Any, Dict, List

from model_folder import is_quantised


def software_of(image: Dict[str, str], words: List[str], model: str) -> Dict[str, Any]:
    """What the image holds, and how the weights are quantised. words: of vLLM's command line."""
    if "--quantization" in words:
        quant = words[words.index("--quantization") + 1]
    else:
        quant = "checkpoint" if is_quantised(model) else "none"
    return {
        "cuda": image.get("cuda"),
        "python": image.get("python"),
        "recipe_sha256": image.get("recipe_sha256"),
        "quant": quant,
    }


def given_to_vllm(scratch: str) -> Dict[str, Any]:
    """Apptainer's command line and the container's environment, as node.sh wrote them down. The key is in neither."""
    return {
        "container": zero_ended(os.path.join(scratch, "container")),
        "environment": dict(pair.split("=", 1) for pair in zero_ended(os.path.join(scratch, "environment"))),
    }


def zero_ended(path: str) -> List[str]:
    """Words of a file, each ended by NUL."""
    with open(path, encoding="utf-8", errors="replace") as source:
        return source.read().split("\0")[:-1]
