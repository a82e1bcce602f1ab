"""What was reckoned of one launch's memory, as the record keeps it. GiB are of one GPU."""

from __future__ import annotations

from pydantic import Field

from bouchet_core.frozen import Frozen


class Memory(Frozen):
    """The sum: gpu x share - weights - work = left for the cache. What is None is not known, and was not checked."""

    gpu_gib: float | None = Field(None, description="memory of one GPU, as CUDA reports it")
    share: float | None = Field(None, description="part of it that vLLM may use (--gpu-memory-utilization)")
    weights_gib: float | None = Field(None, description="weights on one GPU")
    work_gib: float | None = Field(None, description="what running takes besides: activations, graphs, NCCL; estimated")
    cache_gib: float | None = Field(None, description="what is left for the KV cache of one GPU")
    token_bytes: int | None = Field(None, description="KV cache that one more token takes on one GPU")
    window_gib: float | None = Field(None, description="KV cache that one conversation of the full window takes there")
    window: int = Field(description="context window in tokens")
    longest: int | None = Field(None, description="the longest window that the model's config.json allows")
    conversations: float | None = Field(None, description="conversations of the full window that fit at once, in all")
    source: str = Field("", description="where the figures of the model are from")
    note: str = Field("", description="the outcome in a sentence")
