"""The size of vLLM's KV cache: a pool of blocks, laid out as in vLLM's kv_cache_utils. Pure. Sizes are bytes.

Layers of different kinds share one pool, whose blocks all have the same size. Layers are put into groups of equal
size, a block holds one page of each layer of a group, and every group takes its own blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from .architecture import Architecture, AttentionLayers, LatentLayers
from .vllm_args import VllmArgs

# tokens of a block unless a layer needs larger ones
BLOCK_TOKENS = 16
# the packed format in which a sparse latent cache keeps 8-bit values on Hopper
PACKED_LATENT = 656
# blocks of state that one conversation takes: prefix caching keeps the previous one
STATE_BLOCKS = {True: 2, False: 1}


@dataclass(frozen=True)
class KvCachePool:
    """The layout of the cache on one GPU."""

    block_bytes: int
    block_tokens: int
    # groups whose blocks grow with the conversation
    growing_groups: int = 1
    # window sizes of the groups that keep a sliding window
    windows: tuple[int, ...] = ()
    # blocks of fixed-size state
    state_blocks: int = 0
    # tokens of the steps in flight, which a sliding window keeps as well
    in_flight: int = 0

    @property
    def token_bytes(self) -> int:
        """The size of one more token."""
        return self.block_bytes * self.growing_groups // self.block_tokens

    def blocks(self, tokens: int) -> int:
        """Return the number of blocks of one conversation of that length."""
        kept = (min(window - 1 + self.in_flight, tokens) for window in self.windows)
        sliding = sum(_ceil_div(count, self.block_tokens) + 1 for count in kept)
        return self.growing_groups * _ceil_div(tokens, self.block_tokens) + sliding + self.state_blocks

    def bytes_of(self, tokens: int) -> int:
        """Return the size of one conversation of that length."""
        return self.blocks(tokens) * self.block_bytes

    def conversations(self, pool_bytes: float, tokens: int) -> float:
        """Return how many conversations of that length fit at once."""
        return int(pool_bytes // self.block_bytes) / self.blocks(tokens)

    def longest_window(self, pool_bytes: float, at_most: int) -> int:
        """Return the longest conversation that fits, in whole thousands from 2,000 tokens on; 0 when none fits."""
        fits, too_long = 0, at_most + 1
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if self.bytes_of(middle) <= pool_bytes:
                fits = middle
            else:
                too_long = middle
        return fits // 1000 * 1000 if fits >= 2000 else fits


def kv_cache_pool(architecture: Architecture, args: VllmArgs) -> KvCachePool | None:
    """Return the pool on one GPU, None when the architecture is not known."""
    if not architecture.attention or args.overridden:
        return None
    value = args.cache_value_bytes or (1 if architecture.fp8_cache else architecture.value_bytes)
    pages = [_page_bytes(layers, value, args.parallel.tensor) for layers in architecture.attention]
    stages = args.parallel.pipeline
    if architecture.state:
        return _pool_with_state(architecture, args, pages[0])
    if len(architecture.attention) == 1:
        layers = architecture.attention[0]
        index = _ceil_div(layers.index_bytes, stages) if isinstance(layers, LatentLayers) else 0
        return KvCachePool((_ceil_div(layers.count, stages) * pages[0] + index) * BLOCK_TOKENS, BLOCK_TOKENS)
    full, sliding = architecture.attention[0], architecture.attention[1]
    group = _group_size(full.count, sliding.count)
    window = sliding.window if isinstance(sliding, AttentionLayers) else None
    return KvCachePool(
        _ceil_div(group, stages) * pages[0] * BLOCK_TOKENS,
        BLOCK_TOKENS,
        growing_groups=_ceil_div(full.count, group),
        windows=(window or 1,) * _ceil_div(sliding.count, group),
        # two steps are in flight at a time
        in_flight=2 * args.batch_tokens,
    )


def _pool_with_state(architecture: Architecture, args: VllmArgs, token_page: int) -> KvCachePool | None:
    """Return the pool of a hybrid model: a block has to hold a whole state, so it holds many tokens."""
    state, full = architecture.state, architecture.attention[0]
    if state is None:
        return None
    values = state.values * architecture.value_bytes
    matrices = state.matrix_values * (state.matrix_value_bytes or architecture.value_bytes)
    tokens = BLOCK_TOKENS * _ceil_div((values + matrices) // args.parallel.tensor, BLOCK_TOKENS * token_page)
    group = _group_size(full.count, state.count)
    return KvCachePool(
        _ceil_div(group, args.parallel.pipeline) * tokens * token_page,
        tokens,
        growing_groups=_ceil_div(full.count, group),
        state_blocks=_ceil_div(state.count, group) * STATE_BLOCKS[args.prefix_caching],
    )


def _page_bytes(layers: AttentionLayers | LatentLayers, value: int, tensor: int) -> int:
    """Return the bytes that one layer keeps of one token on one GPU."""
    if isinstance(layers, LatentLayers):
        return PACKED_LATENT if layers.index_bytes and value == 1 else layers.size * value
    return max(layers.kv_heads // tensor, 1) * (layers.key_size + layers.value_size) * value


def _group_size(one: int, other: int) -> int:
    """Return the layers of a group: those of the rarer kind, unless both kinds are nearly equally frequent."""
    few, many = sorted((one, other))
    return many if many < few * 1.5 else few


def _ceil_div(count: int, step: int) -> int:
    return -(-count // step)
