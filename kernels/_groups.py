"""What the kernels around group normalisation share: channels and groups of a block, and merging of statistics.

A block is GROUPS neighbouring groups of D channels. In registers every group takes BLOCK_D channels, a power of two;
vectors over a block are [GROUPS * BLOCK_D], of which D in every BLOCK_D are real.
"""

from diamond_fast.kernels._triton import tl, triton


@triton.jit
def block_channels(D: tl.constexpr, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Channel offsets within the block."""
    i = tl.arange(0, GROUPS * BLOCK_D)
    if D != BLOCK_D:
        i = i // BLOCK_D * D + i % BLOCK_D
    return i


@triton.jit
def tile_mask(p, P, D: tl.constexpr, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Which elements of the tile (pixels p) x (block's channels) exist. Uniform over channels wherever it can be."""
    mask = (p < P)[:, None]
    if D != BLOCK_D:
        mask = mask & (tl.arange(0, GROUPS * BLOCK_D) % BLOCK_D < D)[None, :]
    return mask


@triton.jit
def channel_mask(D: tl.constexpr, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Which channels of the block exist."""
    return tl.arange(0, GROUPS * BLOCK_D) % BLOCK_D < D


@triton.jit
def sum_per_group(v, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Vector over the block's channels -> [GROUPS]."""
    return tl.sum(tl.reshape(v, (GROUPS, BLOCK_D)), axis=1)


@triton.jit
def per_channel(v, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr):
    """[GROUPS] -> vector over the block's channels."""
    return tl.reshape(tl.broadcast_to(v[:, None], (GROUPS, BLOCK_D)), (GROUPS * BLOCK_D,))


@triton.jit
def merge_stats(stats, num_parts, GROUPS: tl.constexpr, BLOCK_PARTS: tl.constexpr):
    """Mean and variance from partial statistics (Chan et al. 1979): differences of means only, so that a mean far
    from 0 costs no precision.

    stats: pointer to [GROUPS, num_parts, 3]: count, mean, sum of squared deviations -> mean [GROUPS], var [GROUPS].
    """
    part = tl.arange(0, BLOCK_PARTS)[None, :]
    at = stats + (tl.arange(0, GROUPS)[:, None] * num_parts + part) * 3
    mask = part < num_parts
    count = tl.load(at, mask=mask, other=0.0)
    mean = tl.load(at + 1, mask=mask, other=0.0)
    m2 = tl.load(at + 2, mask=mask, other=0.0)
    total = tl.sum(count, axis=1)
    merged = tl.sum(count * mean, axis=1) / total
    delta = mean - merged[:, None]
    return merged, tl.sum(m2 + count * delta * delta, axis=1) / total


@triton.jit
def piece(x1, x2, n, block, P, C1: tl.constexpr, C2: tl.constexpr, WIDTH: tl.constexpr):
    """Where the block's channels of sample n begin, and how far apart its pixels lie."""
    sample = n.to(tl.int64) * P
    if x2 is None:
        start = x1 + (sample * C1 + block * WIDTH)
        pitch = C1
    else:
        in_second = block * WIDTH >= C1
        pitch = tl.where(in_second, C2, C1)
        start = tl.where(in_second, x2 + (sample * C2 + (block * WIDTH - C1)), x1 + (sample * C1 + block * WIDTH))
    return start, pitch


@triton.jit
def gain_and_shift(
    scale, shift, n, c, scale_stride, shift_stride,
    D: tl.constexpr, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr, ADAPTIVE: tl.constexpr,
):  # fmt: skip
    """Gain and shift of channels c, float32; 0 for channels that do not exist."""
    mask = channel_mask(D, GROUPS, BLOCK_D)
    gain = tl.load(scale + n.to(tl.int64) * scale_stride + c, mask=mask, other=0.0).to(tl.float32)
    if ADAPTIVE:
        gain = tl.where(mask, gain + 1.0, 0.0)
    return gain, tl.load(shift + n.to(tl.int64) * shift_stride + c, mask=mask, other=0.0).to(tl.float32)
