"""A vLLM logits processor under which any model says what the prompt scripts (scripted_reply.py).

All else is the real vLLM: tokenizer, chat template, scheduler, KV cache, parsers, streaming, metrics. Usage:

    PYTHONPATH=<this folder> vllm serve MODEL --logits-processors scripted:Scripted
"""

# Runs in the image; what it imports is not on the machine that checks its types.
# mypy: disable-error-code="import-not-found,misc"

from typing import TYPE_CHECKING

import torch
from scripted_reply import script_for
from transformers import AutoTokenizer
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.interface import MoveDirectionality

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams
    from vllm.v1.sample.logits_processor.interface import BatchUpdate

# A client's own questions (a title, a summary) end soon with this, instead of running to max_tokens.
UNSCRIPTED = "I only follow scripts: SAY[text], CALL[tool {}], COUNT[n], SEEN[words]."

# Under a grammar a random model fills strings and whitespace without end: these tilt it towards the end.
CLOSING = ('"', "}", '"}', "}}", '"}}', '","', '":', '":"', '{"')
CLOSING_BIAS = 8.0
BLANK_BIAS = -16.0

# The script's tokens, and the tokens generated so far: the request's own list, which vLLM appends to.
Progress = tuple[list[int], list[int]]


class Scripted(LogitsProcessor):
    """Every row of the batch follows its script. Without one it says UNSCRIPTED, or is free if a grammar binds it."""

    def __init__(self, vllm_config: "VllmConfig", device: torch.device, is_pin_memory: bool) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(vllm_config.model_config.tokenizer)
        self._scripts: dict[int, Progress] = {}
        self._free: set[int] = set()
        self._bias = self._closing_bias(vllm_config.model_config.get_vocab_size(), device)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: "BatchUpdate | None") -> None:
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._forget(row)
        for row, params, prompt, generated in batch_update.added:
            self._forget(row)
            self._begin(row, params, prompt or [], generated)
        for source, target, direction in batch_update.moved:
            self._move(source, target, swap=direction == MoveDirectionality.SWAP)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        for row, (script, generated) in self._scripts.items():
            token = script[min(len(generated), len(script) - 1)]
            logits[row].fill_(float("-inf"))
            logits[row, token] = 0.0
        for row in self._free:
            logits[row] += self._bias
        return logits

    def _begin(self, row: int, params: "SamplingParams", prompt: list[int], generated: list[int]) -> None:
        text = script_for(self._tokenizer.decode(prompt))
        if text is None and params.structured_outputs is not None:
            self._free.add(row)
            return
        script = self._tokenizer.encode(UNSCRIPTED if text is None else text, add_special_tokens=False)
        self._scripts[row] = ([*script, self._tokenizer.eos_token_id], generated)

    def _forget(self, row: int) -> None:
        self._scripts.pop(row, None)
        self._free.discard(row)

    def _move(self, source: int, target: int, *, swap: bool) -> None:
        moving, staying = self._take(source), self._take(target)
        self._put(target, *moving)
        if swap:
            self._put(source, *staying)

    def _take(self, row: int) -> tuple[Progress | None, bool]:
        taken = self._scripts.pop(row, None), row in self._free
        self._free.discard(row)
        return taken

    def _put(self, row: int, progress: Progress | None, free: bool) -> None:
        if progress is not None:
            self._scripts[row] = progress
        if free:
            self._free.add(row)

    def _closing_bias(self, vocabulary_size: int, device: torch.device) -> torch.Tensor:
        bias = torch.zeros(vocabulary_size, device=device)
        for token in range(len(self._tokenizer)):
            text = self._tokenizer.decode([token], skip_special_tokens=False)
            if not text.strip():
                bias[token] = BLANK_BIAS
            elif text in CLOSING:
                bias[token] = CLOSING_BIAS
        bias[self._tokenizer.eos_token_id] = CLOSING_BIAS
        return bias
