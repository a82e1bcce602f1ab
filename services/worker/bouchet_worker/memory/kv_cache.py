"""How large vLLM's KV cache is: its pool of blocks, laid out as its kv_cache_utils does. Pure. Sizes are bytes.

Layers of different kinds share one pool, whose blocks all have one size: layers are put into groups of equally many, a
block holds one page of each layer of a group, and every group takes its own blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from .architecture import Heads, Latent, Shape
from .vllm_args import Asked

# tokens of a block where nothing wants larger ones
BLOCK_TOKENS = 16
# the packed form in which a sparse latent cache keeps 8-bit values on Hopper
PACKED_LATENT = 656
# blocks that one conversation's state takes: with prefix caching, the one before is kept
STATE_BLOCKS = {True: 2, False: 1}


@dataclass(frozen=True)
class Pool:
    """growing: groups whose blocks grow with the conversation; windows: of the groups that keep a window."""

    block_bytes: int
    block_tokens: int
    growing: int = 1
    windows: tuple[int, ...] = ()
    states: int = 0
    in_flight: int = 0

    @property
    def token_bytes(self) -> int:
        """What one more token takes."""
        return self.block_bytes * self.growing // self.block_tokens

    def blocks(self, tokens: int) -> int:
        """Blocks that one conversation of so many tokens takes."""
        kept = (min(window - 1 + self.in_flight, tokens) for window in self.windows)
        sliding = sum(_up(count, self.block_tokens) + 1 for count in kept)
        return self.growing * _up(tokens, self.block_tokens) + sliding + self.states

    def bytes_of(self, tokens: int) -> int:
        """What one conversation of so many tokens takes."""
        return self.blocks(tokens) * self.block_bytes

    def conversations(self, pool_bytes: float, tokens: int) -> float:
        """How many of that length fit at once."""
        return int(pool_bytes // self.block_bytes) / self.blocks(tokens)

    def longest(self, pool_bytes: float, at_most: int) -> int:
        """The longest conversation that fits alone, in whole thousands where it is that long; 0 where none does."""
        fits, too_long = 0, at_most + 1
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if self.bytes_of(middle) <= pool_bytes:
                fits = middle
            else:
                too_long = middle
        return fits // 1000 * 1000 if fits >= 2000 else fits


def pool_of(shape: Shape, asked: Asked) -> Pool | None:
    """The pool on one GPU, None where the architecture is not known."""
    if not shape.attention or asked.overridden:
        return None
    value = asked.cache_bytes or (1 if shape.cache_fp8 else shape.value_bytes)
    pages = [_page(part, value, asked.parallel.tensor) for part in shape.attention]
    stages = asked.parallel.pipeline
    if shape.states:
        return _with_states(shape, asked, pages[0])
    if len(shape.attention) == 1:
        part = shape.attention[0]
        whole = _up(part.layers, stages) * pages[0] + (_up(part.index_bytes, stages) if isinstance(part, Latent) else 0)
        return Pool(whole * BLOCK_TOKENS, BLOCK_TOKENS)
    full, sliding = shape.attention[0], shape.attention[1]
    group = _group(full.layers, sliding.layers)
    window = sliding.window if isinstance(sliding, Heads) else None
    return Pool(
        _up(group, stages) * pages[0] * BLOCK_TOKENS,
        BLOCK_TOKENS,
        growing=_up(full.layers, group),
        windows=(window or 1,) * _up(sliding.layers, group),
        # two steps are under way at a time
        in_flight=2 * asked.batch_tokens,
    )


def _with_states(shape: Shape, asked: Asked, token_page: int) -> Pool | None:
    """A block has to hold a whole state, so it holds many tokens."""
    states, full = shape.states, shape.attention[0]
    if states is None:
        return None
    state = (states.plain * shape.value_bytes + states.state * (states.state_bytes or shape.value_bytes)) // (
        asked.parallel.tensor
    )
    tokens = BLOCK_TOKENS * _up(state, BLOCK_TOKENS * token_page)
    group = _group(full.layers, states.layers)
    return Pool(
        _up(group, asked.parallel.pipeline) * tokens * token_page,
        tokens,
        growing=_up(full.layers, group),
        states=_up(states.layers, group) * STATE_BLOCKS[asked.prefix_caching],
    )


def _page(part: Heads | Latent, value: int, tensor: int) -> int:
    """Bytes that one layer keeps of one token on one GPU."""
    if isinstance(part, Latent):
        return PACKED_LATENT if part.index_bytes and value == 1 else part.size * value
    return max(part.kv_heads // tensor, 1) * (part.key_size + part.value_size) * value


def _group(few: int, many: int) -> int:
    """Layers of a group: of the fewer kind, unless the kinds are nearly equally many."""
    few, many = sorted((few, many))
    return many if many < few * 1.5 else few


def _up(count: int, step: int) -> int:
    return -(-count // step)
