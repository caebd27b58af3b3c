"""Operators, and launch parameters: functions of shape, dtype and chip, so that no capture has to tune anything.

Every size is a power of two. A thread works on 32 elements of a tile, four 16-byte loads of bfloat16: enough bytes
in flight to keep the memory busy, and few enough float32 registers never to spill.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

THREAD_ELEMENTS = 32
TILE_ELEMENTS = 1024  # what one program holds in registers at a time; of 1024 to 8192 the fastest on an H200
WHOLE_GROUP_ELEMENTS = 16384  # groups up to this size are normalised by one program that reads them once
# Channels from which gains, shifts and sums take so many registers that a thread gets half a tile's share, and a
# quarter in float32.
WIDE_BLOCK = 1024
MIN_TILE_ELEMENTS = 1024  # smaller tiles would spend their time on the launch
ROW_BYTES = 128  # channels a program reads of each pixel: a full cache line if the groups allow it
MAX_SPLITS = 64  # partial results a program has to merge
# Registers a thread of a kernel with a loop may take. Left alone, the assembler stops at a step of occupancy below what
# the loop needs and spills a register or two; two blocks of 8 warps a multiprocessor keep the memory busy all the same.
LOOP_REGISTERS = 128
POINTWISE_BLOCK = 1024  # elements of a program that reduces nothing over pixels
INPUT_TILE_ELEMENTS = 2048  # pixels x channels of the network's input
POINTWISE_WARPS = 4  # 8 elements a thread: one 16-byte load of bfloat16, two of float32


class Chip(NamedTuple):
    """What launch parameters depend on."""

    capability: int  # 10 x major + minor
    num_sms: int  # streaming multiprocessors


@lru_cache
def chip_of(device: torch.device) -> Chip:
    """The chip behind a device. The interpreter, which has none, gets the sizes of an H100."""
    if device.type != "cuda":
        return Chip(90, 132)
    properties = torch.cuda.get_device_properties(device)
    return Chip(10 * properties.major + properties.minor, properties.multi_processor_count)


def operator(name: str, mutates_args: tuple[str, ...] = ()) -> Callable[[Callable], Any]:
    """``torch.library.custom_op`` for functions that launch kernels: they run on the device of their first argument.

    Triton launches on the current device, whichever one the tensors are on.
    """

    def decorate(function: Callable) -> Any:
        @wraps(function)
        def on_its_device(first: Tensor, *rest: Any) -> Any:
            with torch.cuda.device_of(first):
                return function(first, *rest)

        return torch.library.custom_op(name, on_its_device, mutates_args=mutates_args)

    return decorate


def next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


class NormLaunch(NamedTuple):
    """How [N, pixels, channels] is cut into programs. A program owns whole groups of one sample.

    ``num_splits`` programs share a sample's pixels, each walking over ``tiles_per_split`` tiles of ``block_p`` pixels.
    """

    groups_per_block: int
    block_d: int  # group's channels, rounded up
    block_p: int
    tiles_per_split: int
    num_splits: int
    num_warps: int

    @property
    def block_c(self) -> int:
        return self.groups_per_block * self.block_d


def _groups_per_block(group_channels: int, groups: int, itemsize: int, row_bytes: int) -> int:
    """The fewest groups (a power of two that divides ``groups``) whose channels fill ``row_bytes`` of a pixel."""
    count = 1
    while groups % (2 * count) == 0 and count * group_channels * itemsize < row_bytes:
        count *= 2
    return count


def whole_group_launch(pixels: int, group_channels: int, groups: int, itemsize: int) -> NormLaunch | None:
    """One program for a group or a few narrow ones, held in registers as a whole; None if they are too large."""
    count = _groups_per_block(group_channels, groups, itemsize, ROW_BYTES // 2)
    block_d, block_p = next_power_of_2(group_channels), next_power_of_2(pixels)
    elements = count * block_d * block_p
    if elements > WHOLE_GROUP_ELEMENTS:
        return None
    return NormLaunch(count, block_d, block_p, 1, 1, _num_warps(elements))


def split_launch(
    n: int, pixels: int, group_channels: int, groups: int, itemsize: int, chip: Chip, max_splits: int | None = None
) -> NormLaunch:
    """Tiles over the pixels, small enough to give every multiprocessor work; one tile a program if no
    ``max_splits`` bounds the number of partial results.

    Args:
        groups: groups a block of channels may be made of: the greatest common divisor over the inputs.
    """
    count = _groups_per_block(group_channels, groups, itemsize, ROW_BYTES)
    block_d = next_power_of_2(group_channels)
    block_c = count * block_d
    tile = TILE_ELEMENTS if block_c < WIDE_BLOCK else TILE_ELEMENTS // itemsize
    block_p = min(max(1, tile // block_c), next_power_of_2(pixels))
    columns = n * groups // count  # programs per tile of pixels
    while (
        columns * ceil_div(pixels, block_p) < 2 * chip.num_sms and block_p > 1 and block_p * block_c > MIN_TILE_ELEMENTS
    ):
        block_p //= 2
    tiles = ceil_div(pixels, block_p)
    tiles_per_split = 1 if max_splits is None else ceil_div(tiles, max_splits)
    num_warps = _num_warps(block_c * block_p * (TILE_ELEMENTS // tile))
    return NormLaunch(count, block_d, block_p, tiles_per_split, ceil_div(tiles, tiles_per_split), num_warps)


def reduce_warps(num_warps: int) -> int:
    """Warps of a program that reduces two inputs at once: a thread gets half as many elements of each."""
    return min(16, 2 * num_warps)


def enough_splits(columns: int, chip: Chip) -> int:
    """Splits of the pixels that give every multiprocessor four programs, for ``columns`` programs a split."""
    return min(MAX_SPLITS, ceil_div(4 * chip.num_sms, columns))


def _num_warps(elements: int) -> int:
    return min(16, max(1, elements // (32 * THREAD_ELEMENTS)))
