"""How much of a model's weights lies on one GPU. Pure. Sizes are bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bouchet_core.parallel import Parallel

from .architecture import Shape

_EXPERTS = re.compile(r"(^|[._])(?<!shared_)experts([._]|$)")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|lm_head|wte|tok_embeddings|output)\.")
# every GPU keeps these whole
_COPIED = re.compile(
    r"\.(gate|router|shared_expert_gate|q_a_proj|kv_a_proj_with_mqa|fused_qkv_a_proj|indexer(\.\w+)?|[\w]*norm\w*)\."
)
_KEYS_AND_VALUES = re.compile(r"\.(k_proj|v_proj)\.")
# predicts several tokens at once; vLLM leaves it out unless it is asked to
_EXTRA_HEAD = re.compile(r"(^|\.)mtp\.|\.layers\.\+\.")
_SEES = re.compile(r"(^|\.)(visual|vision_tower|vision_model|mm_projector|multi_modal_projector)\.")
_PLAIN = {"F32": 4, "BF16": 2, "F16": 2}
# kernels for MXFP4 work on so many columns at a time
_PACKED_STEP = 256


@dataclass(frozen=True)
class Tensors:
    """All tensors of a checkpoint whose names differ only in numbers (`*`; `+` for a layer after the last)."""

    name: str
    type: str
    rank: int
    bytes: int


def on_one_gpu(tensors: Sequence[Tensors], shape: Shape, parallel: Parallel, *, fp8: bool) -> float:
    """Bytes of the weights that one GPU holds. fp8: linear layers are quantised while loading."""
    return sum(_loaded(t, shape, fp8=fp8) * _part(t, shape, parallel) for t in tensors) / parallel.pipeline


def of_named_size(size: float, parallel: Parallel, *, fp8: bool, experts: bool) -> float:
    """The least that a checkpoint of that size takes on one GPU, where nothing else is known of it.

    experts: whether it has experts, which copies share out among themselves.
    """
    shared = parallel.tensor * parallel.pipeline * (parallel.data if experts else 1)
    return size * (0.5 if fp8 else 1) / shared


def _loaded(tensors: Tensors, shape: Shape, *, fp8: bool) -> float:
    """Bytes after loading."""
    name = tensors.name
    if _EXTRA_HEAD.search(name) or (shape.tied and ("lm_head." in name)):
        return 0
    plain = _PLAIN.get(tensors.type)
    if plain is None or tensors.rank < 2:
        grown = shape.packed and _EXPERTS.search(name) and shape.hidden % _PACKED_STEP
        return tensors.bytes * _padded(shape.hidden) / shape.hidden if grown else tensors.bytes
    if "scale" in name:
        return tensors.bytes
    kept = _EMBEDDING.search(name) or _COPIED.search(name) or _SEES.search(name) or shape.quantised or not fp8
    return tensors.bytes / plain * (min(plain, shape.value_bytes) if kept else 1)


def _part(tensors: Tensors, shape: Shape, parallel: Parallel) -> float:
    """The share of one GPU."""
    name = tensors.name
    if _EXPERTS.search(name):
        # copies of a model share its experts among them, whole ones or slices
        return 1 / (parallel.tensor * parallel.data)
    if _COPIED.search(name) or (tensors.rank < 2 and "scale" not in name):
        return 1
    if _KEYS_AND_VALUES.search(name) and shape.kv_heads:
        return max(1 / parallel.tensor, 1 / shape.kv_heads)
    return 1 / parallel.tensor


def _padded(columns: int) -> int:
    return -(-columns // _PACKED_STEP) * _PACKED_STEP
