"""The three kernels of ``fused_conv``, which describes what they compute.

All are implicit matrix products: a program owns a tile of pixels of one sample and a block of output channels, and
goes over blocks of input channels. Pointers that are None are left out at compile time.
"""

from diamond_fast.kernels._groups import block_channels, channel_mask, merge_stats, per_channel, sum_per_group
from diamond_fast.kernels._triton import tl, triton


@triton.jit
def _piece(x1, x2, n, block, pixels, C1: tl.constexpr, C2: tl.constexpr, WIDTH: tl.constexpr):
    """A block of input channels: where sample n has it, its first channel and the channels of its piece."""
    BLOCKS1: tl.constexpr = (C1 + WIDTH - 1) // WIDTH
    sample = n.to(tl.int64) * pixels
    if x2 is None:
        return x1 + sample * C1, block * WIDTH, C1
    else:
        in_second = block >= BLOCKS1
        start = tl.where(in_second, x2 + sample * C2, x1 + sample * C1)
        first = tl.where(in_second, (block - BLOCKS1) * WIDTH, block * WIDTH)
        return start, first, tl.where(in_second, C2, C1)


@triton.jit
def _spread(v, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr):
    """``per_channel`` as a sum with one term: what comes of a reshape, Triton keeps once for every pixel."""
    mine = tl.arange(0, GROUPS)[:, None] == (tl.arange(0, GROUPS * BLOCK_D) // BLOCK_D)[None, :]
    return tl.sum(tl.where(mine, v[:, None], 0.0), axis=0)


@triton.jit
def _gain_and_offset(
    scale, shift, stats1, stats2, n, block, joint, c_mask, parts1, parts2, scale_stride, shift_stride, eps,
    C1: tl.constexpr, C2: tl.constexpr, D: tl.constexpr, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_PARTS: tl.constexpr, ADAPTIVE: tl.constexpr,
):  # fmt: skip
    """The norm of a block of channels as a factor and a summand of each: registers for two rows, not three."""
    BLOCKS1: tl.constexpr = (C1 + GROUPS * D - 1) // (GROUPS * D)
    row = n.to(tl.int64) * (C1 // D) + block * GROUPS
    part_stats = stats1 + row * parts1 * 3
    parts = parts1
    if stats2 is not None:
        row2 = n.to(tl.int64) * (C2 // D) + (block - BLOCKS1) * GROUPS
        part_stats = tl.where(block >= BLOCKS1, stats2 + row2 * parts2 * 3, part_stats)
        parts = tl.where(block >= BLOCKS1, parts2, parts1)
    mean, var = merge_stats(part_stats, parts, GROUPS, BLOCK_PARTS)
    rstd = 1.0 / tl.sqrt(var + eps)
    gain = tl.load(scale + n.to(tl.int64) * scale_stride + joint, mask=c_mask, other=0.0).to(tl.float32)
    if ADAPTIVE:
        gain += 1.0
    gain = gain * _spread(rstd, GROUPS, BLOCK_D)
    offset = tl.load(shift + n.to(tl.int64) * shift_stride + joint, mask=c_mask, other=0.0).to(tl.float32)
    return gain, offset - gain * _spread(mean, GROUPS, BLOCK_D)


@triton.jit
def _activated(a, gain, offset, mask):
    """silu(norm(a)), rounded as a pass of its own would round it; 0 outside the image."""
    z = a.to(tl.float32) * gain[None, :] + offset[None, :]
    return tl.where(mask, z * tl.sigmoid(z), 0.0).to(a.dtype)


@triton.jit
def _projected(
    acc, r1, r2, projection, n, p, p_mask, o, o_mask, P,
    R1: tl.constexpr, R2: tl.constexpr, BLOCK_R: tl.constexpr, OUT_RAGGED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """acc + the 1x1 convolution of r1 and r2."""
    BLOCKS1: tl.constexpr = (R1 + BLOCK_R - 1) // BLOCK_R
    for block in range(BLOCKS1 + (R2 + BLOCK_R - 1) // BLOCK_R):
        start, first, pitch = _piece(r1, r2, n, block, P, R1, R2, BLOCK_R)
        c = first + tl.arange(0, BLOCK_R)
        joint = c
        if r2 is not None:
            joint = tl.where(block >= BLOCKS1, R1 + c, c)
        at_weight = o[None, :] * (R1 + R2) + joint[:, None]
        if R1 % BLOCK_R != 0 or R2 % BLOCK_R != 0 or OUT_RAGGED:
            a_mask = p_mask[:, None] & (c < pitch)[None, :]
            b = tl.load(projection + at_weight, mask=(c < pitch)[:, None] & o_mask[None, :], other=0.0)
        else:
            a_mask = p_mask[:, None]
            b = tl.load(projection + at_weight)
        a = tl.load(start + (p[:, None] * pitch + c[None, :]), mask=a_mask, other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


@triton.jit
def _add_up(acc, bias, projection_bias, residual, out, at, mask, o, o_mask):
    """Adds bias and residual and stores; returns what was stored, 0 outside the image."""
    if bias is not None:
        acc += tl.load(bias + o, mask=o_mask, other=0.0).to(tl.float32)[None, :]
    if projection_bias is not None:
        acc += tl.load(projection_bias + o, mask=o_mask, other=0.0).to(tl.float32)[None, :]
    if residual is not None:
        acc += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    rounded = acc.to(out.dtype.element_ty)
    tl.store(out + at, rounded, mask=mask)
    return tl.where(mask, rounded.to(tl.float32), 0.0)


@triton.jit
def _store_stats(
    stats, n, out_block, tile, num_tiles, count, mean, m2,
    OUT_C: tl.constexpr, OUT_D: tl.constexpr, OUT_GROUPS: tl.constexpr,
):  # fmt: skip
    """A tile's count of values, means and sums of squared deviations, [OUT_GROUPS] each but for the count."""
    g = n.to(tl.int64) * (OUT_C // OUT_D) + out_block * OUT_GROUPS + tl.arange(0, OUT_GROUPS)
    at_stats = stats + (g * num_tiles + tile) * 3
    tl.store(at_stats, tl.zeros([OUT_GROUPS], tl.float32) + count)
    tl.store(at_stats + 1, mean)
    tl.store(at_stats + 2, m2)


@triton.jit
def _finish(
    acc, bias, projection_bias, residual, out, stats, n, p, p_mask, o, o_mask, out_block, tile, num_tiles, count, P,
    OUT_C: tl.constexpr, OUT_D: tl.constexpr, OUT_GROUPS: tl.constexpr, OUT_BLOCK_D: tl.constexpr,
    OUT_RAGGED: tl.constexpr,
):  # fmt: skip
    """Adds bias and residual, stores a tile of ``count`` pixels, and its statistics."""
    mask = p_mask[:, None]
    if OUT_RAGGED:
        mask = mask & o_mask[None, :]
    at = n.to(tl.int64) * P * OUT_C + (p[:, None] * OUT_C + o[None, :])
    v = _add_up(acc, bias, projection_bias, residual, out, at, mask, o, o_mask)

    count = (count * OUT_D).to(tl.float32)
    mean = sum_per_group(tl.sum(v, axis=0), OUT_GROUPS, OUT_BLOCK_D) / count
    deviation = tl.where(mask, v - per_channel(mean, OUT_GROUPS, OUT_BLOCK_D)[None, :], 0.0)
    m2 = sum_per_group(tl.sum(deviation * deviation, axis=0), OUT_GROUPS, OUT_BLOCK_D)
    _store_stats(stats, n, out_block, tile, num_tiles, count, mean, m2, OUT_C, OUT_D, OUT_GROUPS)


@triton.jit
def any_conv_kernel(
    x1, x2, weight, bias, scale, shift, stats1, stats2, residual, r1, r2, projection, projection_bias, out, stats,
    height, width, out_width, P, num_tiles, parts1, parts2, scale_stride, shift_stride, eps,
    C1: tl.constexpr, C2: tl.constexpr, D: tl.constexpr, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr,
    R1: tl.constexpr, R2: tl.constexpr, BLOCK_R: tl.constexpr,
    OUT_C: tl.constexpr, OUT_D: tl.constexpr, OUT_GROUPS: tl.constexpr, OUT_BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr, ENLARGE: tl.constexpr, PRECISION: tl.constexpr,
    ADAPTIVE: tl.constexpr, BLOCK_PARTS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_P output pixels of a sample x OUT_GROUPS groups of OUT_D output channels, tap by tap."""
    WIDTH: tl.constexpr = GROUPS * D
    BLOCKS1: tl.constexpr = (C1 + WIDTH - 1) // WIDTH
    BLOCKS: tl.constexpr = BLOCKS1 + (C2 + WIDTH - 1) // WIDTH
    RAGGED: tl.constexpr = D != BLOCK_D or C1 % WIDTH != 0 or C2 % WIDTH != 0
    OUT_WIDTH: tl.constexpr = OUT_GROUPS * OUT_D
    OUT_RAGGED: tl.constexpr = OUT_D != OUT_BLOCK_D or OUT_C % OUT_WIDTH != 0
    pid = tl.program_id(0)
    tile = pid % num_tiles
    out_block = pid // num_tiles % ((OUT_C + OUT_WIDTH - 1) // OUT_WIDTH)
    n = pid // num_tiles // ((OUT_C + OUT_WIDTH - 1) // OUT_WIDTH)
    p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    p_mask = p < P
    o = out_block * OUT_WIDTH + block_channels(OUT_D, OUT_GROUPS, OUT_BLOCK_D)
    o_mask = channel_mask(OUT_D, OUT_GROUPS, OUT_BLOCK_D) & (o < OUT_C)
    top = p // out_width * STRIDE - KERNEL // 2
    left = p % out_width * STRIDE - KERNEL // 2
    pixels = height * width
    i = block_channels(D, GROUPS, BLOCK_D)

    acc = tl.zeros([BLOCK_P, OUT_GROUPS * OUT_BLOCK_D], tl.float32)
    for block in range(BLOCKS):
        start, first, pitch = _piece(x1, x2, n, block, pixels, C1, C2, WIDTH)
        c = first + i  # within the piece
        c_mask = channel_mask(D, GROUPS, BLOCK_D) & (c < pitch)
        joint = c
        if x2 is not None:
            joint = tl.where(block >= BLOCKS1, C1 + c, c)  # as if concatenated
        if stats1 is not None:
            gain, offset = _gain_and_offset(
                scale, shift, stats1, stats2, n, block, joint, c_mask, parts1, parts2, scale_stride, shift_stride, eps,
                C1, C2, D, GROUPS, BLOCK_D, BLOCK_PARTS, ADAPTIVE,
            )  # fmt: skip
        for tap in range(KERNEL * KERNEL):
            y = top + tap // KERNEL
            x = left + tap % KERNEL
            mask = (p_mask & (y >= 0) & (y < height * ENLARGE) & (x >= 0) & (x < width * ENLARGE))[:, None]
            if RAGGED:
                mask = mask & c_mask[None, :]
            q = y // ENLARGE * width + x // ENLARGE
            a = tl.load(start + (q[:, None] * pitch + c[None, :]), mask=mask, other=0.0)
            if stats1 is not None:
                a = _activated(a, gain, offset, mask)
            at_weight = o[None, :] * (KERNEL * KERNEL * (C1 + C2)) + (tap * (C1 + C2) + joint)[:, None]
            if RAGGED or OUT_RAGGED:
                b = tl.load(weight + at_weight, mask=c_mask[:, None] & o_mask[None, :], other=0.0)
            else:
                b = tl.load(weight + at_weight)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)

    if projection is not None:
        acc = _projected(acc, r1, r2, projection, n, p, p_mask, o, o_mask, P, R1, R2, BLOCK_R, OUT_RAGGED, PRECISION)
    count = tl.minimum(P - tile * BLOCK_P, BLOCK_P)
    _finish(
        acc, bias, projection_bias, residual, out, stats, n, p, p_mask, o, o_mask, out_block, tile, num_tiles, count, P,
        OUT_C, OUT_D, OUT_GROUPS, OUT_BLOCK_D, OUT_RAGGED,
    )  # fmt: skip


@triton.jit
def conv_by_rows_kernel(
    x1, x2, weight, bias, scale, shift, stats1, stats2, residual, r1, r2, projection, projection_bias, out, stats,
    height, width, out_width, P, num_tiles, parts1, parts2, scale_stride, shift_stride, eps,
    C1: tl.constexpr, C2: tl.constexpr, D: tl.constexpr, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr,
    R1: tl.constexpr, R2: tl.constexpr, BLOCK_R: tl.constexpr,
    OUT_C: tl.constexpr, OUT_D: tl.constexpr, OUT_GROUPS: tl.constexpr, OUT_BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr, ENLARGE: tl.constexpr, PRECISION: tl.constexpr,
    ADAPTIVE: tl.constexpr, BLOCK_PARTS: tl.constexpr, HALO: tl.constexpr,
):  # fmt: skip
    """3x3 with stride 1: every input pixel is read, normalised and activated three times, not nine.

    The three taps of a row of the kernel are summed apart, each where its input pixel is. In the end the sums are
    moved by a pixel to the left and to the right, and added up. Tiles that do not consist of whole rows overlap by
    HALO = 1 pixel on both sides for that: a tile yields BLOCK_P - 2 * HALO pixels.
    """
    WIDTH: tl.constexpr = GROUPS * D
    BLOCKS1: tl.constexpr = (C1 + WIDTH - 1) // WIDTH
    BLOCKS: tl.constexpr = BLOCKS1 + (C2 + WIDTH - 1) // WIDTH
    RAGGED: tl.constexpr = D != BLOCK_D or C1 % WIDTH != 0 or C2 % WIDTH != 0
    OUT_WIDTH: tl.constexpr = OUT_GROUPS * OUT_D
    OUT_RAGGED: tl.constexpr = OUT_D != OUT_BLOCK_D or OUT_C % OUT_WIDTH != 0
    BLOCK_O: tl.constexpr = OUT_GROUPS * OUT_BLOCK_D
    YIELD: tl.constexpr = BLOCK_P - 2 * HALO
    pid = tl.program_id(0)
    tile = pid % num_tiles
    out_block = pid // num_tiles % ((OUT_C + OUT_WIDTH - 1) // OUT_WIDTH)
    n = pid // num_tiles // ((OUT_C + OUT_WIDTH - 1) // OUT_WIDTH)
    local = tl.arange(0, BLOCK_P)
    p = tile * YIELD - HALO + local
    inside = (p >= 0) & (p < P)
    o = out_block * OUT_WIDTH + block_channels(OUT_D, OUT_GROUPS, OUT_BLOCK_D)
    o_mask = channel_mask(OUT_D, OUT_GROUPS, OUT_BLOCK_D) & (o < OUT_C)
    row = p // out_width
    column = p % out_width
    pixels = height * width
    i = block_channels(D, GROUPS, BLOCK_D)

    acc = tl.zeros([BLOCK_P, BLOCK_O], tl.float32)
    from_left = tl.zeros([BLOCK_P, BLOCK_O], tl.float32)
    from_right = tl.zeros([BLOCK_P, BLOCK_O], tl.float32)
    for block in range(BLOCKS):
        start, first, pitch = _piece(x1, x2, n, block, pixels, C1, C2, WIDTH)
        c = first + i  # within the piece
        c_mask = channel_mask(D, GROUPS, BLOCK_D) & (c < pitch)
        joint = c
        if x2 is not None:
            joint = tl.where(block >= BLOCKS1, C1 + c, c)  # as if concatenated
        if stats1 is not None:
            gain, offset = _gain_and_offset(
                scale, shift, stats1, stats2, n, block, joint, c_mask, parts1, parts2, scale_stride, shift_stride, eps,
                C1, C2, D, GROUPS, BLOCK_D, BLOCK_PARTS, ADAPTIVE,
            )  # fmt: skip
        for ky in range(3):
            y = row + (ky - 1)
            mask = (inside & (y >= 0) & (y < height * ENLARGE))[:, None]
            if RAGGED:
                mask = mask & c_mask[None, :]
            q = y // ENLARGE * width + column // ENLARGE
            a = tl.load(start + (q[:, None] * pitch + c[None, :]), mask=mask, other=0.0)
            if stats1 is not None:
                a = _activated(a, gain, offset, mask)
            at_weight = weight + (o[None, :] * (9 * (C1 + C2)) + (ky * (3 * (C1 + C2)) + joint)[:, None])
            if RAGGED or OUT_RAGGED:
                w_mask = c_mask[:, None] & o_mask[None, :]
                b_left = tl.load(at_weight, mask=w_mask, other=0.0)
                b = tl.load(at_weight + (C1 + C2), mask=w_mask, other=0.0)
                b_right = tl.load(at_weight + 2 * (C1 + C2), mask=w_mask, other=0.0)
            else:
                b_left = tl.load(at_weight)
                b = tl.load(at_weight + (C1 + C2))
                b_right = tl.load(at_weight + 2 * (C1 + C2))
            from_left = tl.dot(a, b_left, from_left, input_precision=PRECISION)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
            from_right = tl.dot(a, b_right, from_right, input_precision=PRECISION)

    to_the_left = tl.broadcast_to(tl.maximum(local - 1, 0)[:, None], (BLOCK_P, BLOCK_O))
    to_the_right = tl.broadcast_to(tl.minimum(local + 1, BLOCK_P - 1)[:, None], (BLOCK_P, BLOCK_O))
    acc += tl.where((column > 0)[:, None], tl.gather(from_left, to_the_left, 0), 0.0)
    acc += tl.where((column < out_width - 1)[:, None], tl.gather(from_right, to_the_right, 0), 0.0)

    p_mask = inside & (local >= HALO) & (local < BLOCK_P - HALO)
    if projection is not None:
        acc = _projected(acc, r1, r2, projection, n, p, p_mask, o, o_mask, P, R1, R2, BLOCK_R, OUT_RAGGED, PRECISION)
    count = tl.minimum(P - tile * YIELD, YIELD)
    _finish(
        acc, bias, projection_bias, residual, out, stats, n, p, p_mask, o, o_mask, out_block, tile, num_tiles, count, P,
        OUT_C, OUT_D, OUT_GROUPS, OUT_BLOCK_D, OUT_RAGGED,
    )  # fmt: skip


@triton.jit
def _column(start, row, column, c, c_mask, pitch, inside, height, width, ENLARGE: tl.constexpr, RAGGED: tl.constexpr):
    """Input pixels of one column in every four, and of a row each."""
    mask = (inside & (row >= 0) & (row < height * ENLARGE) & (column >= 0) & (column < width * ENLARGE))[:, None]
    if RAGGED:
        mask = mask & c_mask[None, :]
    q = row // ENLARGE * width + column // ENLARGE
    return tl.load(start + (q[:, None] * pitch + c[None, :]), mask=mask, other=0.0)


@triton.jit
def conv_by_columns_kernel(
    x1, x2, weight, bias, residual, r1, r2, projection, projection_bias, out, stats,
    height, width, out_width, P, num_tiles,
    C1: tl.constexpr, C2: tl.constexpr, WIDTH: tl.constexpr,
    R1: tl.constexpr, R2: tl.constexpr, BLOCK_R: tl.constexpr,
    OUT_C: tl.constexpr, OUT_D: tl.constexpr, OUT_GROUPS: tl.constexpr, OUT_BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr, ENLARGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """3x3 with stride 1: four neighbouring columns of outputs from six columns of inputs, each read once a row.

    A program owns BLOCK_P / 4 quadruples of neighbouring pixels; a row ends in an incomplete one if need be. There is
    no norm in front: a pass of its own costs less than to normalise every pixel four and a half times.
    """
    BLOCKS1: tl.constexpr = (C1 + WIDTH - 1) // WIDTH
    BLOCKS: tl.constexpr = BLOCKS1 + (C2 + WIDTH - 1) // WIDTH
    RAGGED: tl.constexpr = C1 % WIDTH != 0 or C2 % WIDTH != 0
    OUT_WIDTH: tl.constexpr = OUT_GROUPS * OUT_D
    OUT_RAGGED: tl.constexpr = OUT_D != OUT_BLOCK_D or OUT_C % OUT_WIDTH != 0
    BLOCK_O: tl.constexpr = OUT_GROUPS * OUT_BLOCK_D
    M: tl.constexpr = BLOCK_P // 4
    pid = tl.program_id(0)
    tile = pid % num_tiles
    out_block = pid // num_tiles % ((OUT_C + OUT_WIDTH - 1) // OUT_WIDTH)
    n = pid // num_tiles // ((OUT_C + OUT_WIDTH - 1) // OUT_WIDTH)
    quadruple = tile * M + tl.arange(0, M)
    a_row = (out_width + 3) // 4
    row = quadruple // a_row
    column = quadruple % a_row * 4
    inside = row < height * ENLARGE
    o = out_block * OUT_WIDTH + block_channels(OUT_D, OUT_GROUPS, OUT_BLOCK_D)
    o_mask = channel_mask(OUT_D, OUT_GROUPS, OUT_BLOCK_D) & (o < OUT_C)
    pixels = height * width

    y0 = tl.zeros([M, BLOCK_O], tl.float32)
    y1 = tl.zeros([M, BLOCK_O], tl.float32)
    y2 = tl.zeros([M, BLOCK_O], tl.float32)
    y3 = tl.zeros([M, BLOCK_O], tl.float32)
    for step in range(BLOCKS * 3):  # one loop, so that loads run ahead over all of it
        block = step // 3
        ky = step % 3
        start, first, pitch = _piece(x1, x2, n, block, pixels, C1, C2, WIDTH)
        c = first + tl.arange(0, WIDTH)  # within the piece
        c_mask = c < pitch
        joint = c
        if x2 is not None:
            joint = tl.where(block >= BLOCKS1, C1 + c, c)  # as if concatenated
        y = row + (ky - 1)
        at_weight = weight + (o[None, :] * (9 * (C1 + C2)) + (ky * (3 * (C1 + C2)) + joint)[:, None])
        if RAGGED or OUT_RAGGED:
            w_mask = c_mask[:, None] & o_mask[None, :]
            b0 = tl.load(at_weight, mask=w_mask, other=0.0)
            b1 = tl.load(at_weight + (C1 + C2), mask=w_mask, other=0.0)
            b2 = tl.load(at_weight + 2 * (C1 + C2), mask=w_mask, other=0.0)
        else:
            b0 = tl.load(at_weight)
            b1 = tl.load(at_weight + (C1 + C2))
            b2 = tl.load(at_weight + 2 * (C1 + C2))
        a0 = _column(start, y, column - 1, c, c_mask, pitch, inside, height, width, ENLARGE, RAGGED)
        a1 = _column(start, y, column, c, c_mask, pitch, inside, height, width, ENLARGE, RAGGED)
        a2 = _column(start, y, column + 1, c, c_mask, pitch, inside, height, width, ENLARGE, RAGGED)
        y0 = tl.dot(a0, b0, y0, input_precision=PRECISION)
        a3 = _column(start, y, column + 2, c, c_mask, pitch, inside, height, width, ENLARGE, RAGGED)
        y0 = tl.dot(a1, b1, y0, input_precision=PRECISION)
        y1 = tl.dot(a1, b0, y1, input_precision=PRECISION)
        a4 = _column(start, y, column + 3, c, c_mask, pitch, inside, height, width, ENLARGE, RAGGED)
        y0 = tl.dot(a2, b2, y0, input_precision=PRECISION)
        y1 = tl.dot(a2, b1, y1, input_precision=PRECISION)
        y2 = tl.dot(a2, b0, y2, input_precision=PRECISION)
        a5 = _column(start, y, column + 4, c, c_mask, pitch, inside, height, width, ENLARGE, RAGGED)
        y1 = tl.dot(a3, b2, y1, input_precision=PRECISION)
        y2 = tl.dot(a3, b1, y2, input_precision=PRECISION)
        y3 = tl.dot(a3, b0, y3, input_precision=PRECISION)
        y2 = tl.dot(a4, b2, y2, input_precision=PRECISION)
        y3 = tl.dot(a4, b1, y3, input_precision=PRECISION)
        y3 = tl.dot(a5, b2, y3, input_precision=PRECISION)

    p = row * out_width + column
    in0 = inside & (column < out_width)
    in1 = inside & (column + 1 < out_width)
    in2 = inside & (column + 2 < out_width)
    in3 = inside & (column + 3 < out_width)
    if projection is not None:
        y0 = _projected(y0, r1, r2, projection, n, p, in0, o, o_mask, P, R1, R2, BLOCK_R, OUT_RAGGED, PRECISION)
        y1 = _projected(y1, r1, r2, projection, n, p + 1, in1, o, o_mask, P, R1, R2, BLOCK_R, OUT_RAGGED, PRECISION)
        y2 = _projected(y2, r1, r2, projection, n, p + 2, in2, o, o_mask, P, R1, R2, BLOCK_R, OUT_RAGGED, PRECISION)
        y3 = _projected(y3, r1, r2, projection, n, p + 3, in3, o, o_mask, P, R1, R2, BLOCK_R, OUT_RAGGED, PRECISION)
    at = n.to(tl.int64) * P * OUT_C + (p[:, None] * OUT_C + o[None, :])
    m0 = in0[:, None] & o_mask[None, :]
    m1 = in1[:, None] & o_mask[None, :]
    m2 = in2[:, None] & o_mask[None, :]
    m3 = in3[:, None] & o_mask[None, :]
    v0 = _add_up(y0, bias, projection_bias, residual, out, at, m0, o, o_mask)
    v1 = _add_up(y1, bias, projection_bias, residual, out, at + OUT_C, m1, o, o_mask)
    v2 = _add_up(y2, bias, projection_bias, residual, out, at + 2 * OUT_C, m2, o, o_mask)
    v3 = _add_up(y3, bias, projection_bias, residual, out, at + 3 * OUT_C, m3, o, o_mask)

    each = tl.where(inside, tl.minimum(out_width - column, 4), 0)
    count = (tl.sum(each, axis=0) * OUT_D).to(tl.float32)
    mean = sum_per_group(tl.sum(v0 + v1 + v2 + v3, axis=0), OUT_GROUPS, OUT_BLOCK_D) / count
    means = per_channel(mean, OUT_GROUPS, OUT_BLOCK_D)[None, :]
    v0 = tl.where(m0, v0 - means, 0.0)
    v1 = tl.where(m1, v1 - means, 0.0)
    v2 = tl.where(m2, v2 - means, 0.0)
    v3 = tl.where(m3, v3 - means, 0.0)
    squares = sum_per_group(tl.sum(v0 * v0 + v1 * v1 + v2 * v2 + v3 * v3, axis=0), OUT_GROUPS, OUT_BLOCK_D)
    _store_stats(stats, n, out_block, tile, num_tiles, count, mean, squares, OUT_C, OUT_D, OUT_GROUPS)
