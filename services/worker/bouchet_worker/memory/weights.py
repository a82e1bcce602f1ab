"""How much of a model's weights each GPU holds. Pure. Sizes are bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bouchet_core.config.catalog import Parallel

from .architecture import Architecture

_EXPERTS = re.compile(r"(^|[._])(?<!shared_)experts([._]|$)")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|lm_head|wte|tok_embeddings|output)\.")
# replicated on every GPU
_REPLICATED = re.compile(
    r"\.(gate|router|shared_expert_gate|q_a_proj|kv_a_proj_with_mqa|fused_qkv_a_proj|indexer(\.\w+)?|[\w]*norm\w*)\."
)
_KEYS_AND_VALUES = re.compile(r"\.(k_proj|v_proj)\.")
# multi-token prediction, which vLLM loads only on request
_MTP = re.compile(r"(^|\.)mtp\.|\.layers\.\+\.")
_VISION = re.compile(r"(^|\.)(visual|vision_tower|vision_model|mm_projector|multi_modal_projector)\.")
_FLOAT_BYTES = {"F32": 4, "BF16": 2, "F16": 2}
# kernels for MXFP4 work on so many columns at a time
_MXFP4_COLUMNS = 256


@dataclass(frozen=True)
class TensorGroup:
    """All tensors of a checkpoint whose names differ only in numbers (`*`; `+` for a layer after the last)."""

    name: str
    type: str
    rank: int
    bytes: int


def weights_per_gpu(
    tensors: Sequence[TensorGroup], architecture: Architecture, parallel: Parallel, *, fp8: bool
) -> float:
    """Return the bytes of the weights on one GPU. fp8: linear layers are quantised while loading."""
    loaded = (_loaded_bytes(t, architecture, fp8=fp8) * _gpu_share(t, architecture, parallel) for t in tensors)
    return sum(loaded) / parallel.pipeline


def least_weights_per_gpu(size: float, parallel: Parallel, *, fp8: bool, experts: bool) -> float:
    """Return the least that a checkpoint of a known size, of unknown tensors, takes on one GPU, in the size's unit.

    experts: it has experts, which data-parallel copies share.
    """
    gpus = parallel.tensor * parallel.pipeline * (parallel.data if experts else 1)
    return size * (0.5 if fp8 else 1) / gpus


def _loaded_bytes(tensors: TensorGroup, architecture: Architecture, *, fp8: bool) -> float:
    name = tensors.name
    if _MTP.search(name) or (architecture.tied and "lm_head." in name):
        return 0
    float_bytes = _FLOAT_BYTES.get(tensors.type)
    if float_bytes is None or tensors.rank < 2:
        padded = architecture.mxfp4 and _EXPERTS.search(name) and architecture.hidden % _MXFP4_COLUMNS
        return tensors.bytes * _padded(architecture.hidden) / architecture.hidden if padded else tensors.bytes
    if "scale" in name:
        return tensors.bytes
    never_quantised = _EMBEDDING.search(name) or _REPLICATED.search(name) or _VISION.search(name)
    kept = never_quantised or architecture.quantised or not fp8
    return tensors.bytes / float_bytes * (min(float_bytes, architecture.value_bytes) if kept else 1)


def _gpu_share(tensors: TensorGroup, architecture: Architecture, parallel: Parallel) -> float:
    name = tensors.name
    if _EXPERTS.search(name):
        # data-parallel copies share the experts, whole ones or slices
        return 1 / (parallel.tensor * parallel.data)
    if _REPLICATED.search(name) or (tensors.rank < 2 and "scale" not in name):
        return 1
    if _KEYS_AND_VALUES.search(name) and architecture.kv_heads:
        return max(1 / parallel.tensor, 1 / architecture.kv_heads)
    return 1 / parallel.tensor


def _padded(columns: int) -> int:
    return -(-columns // _MXFP4_COLUMNS) * _MXFP4_COLUMNS
