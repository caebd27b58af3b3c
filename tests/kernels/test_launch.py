import itertools
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from diamond_fast import kernels
from diamond_fast.kernels.edm_step import edm_denoise
from diamond_fast.kernels.launch import (
    MAX_SPLITS,
    WHOLE_GROUP_ELEMENTS,
    Chip,
    chip_of,
    enough_splits,
    split_launch,
    whole_group_launch,
)

CHIPS = [Chip(80, 108), Chip(90, 132), Chip(120, 170), Chip(89, 24)]
PIXELS = [1, 35, 64, 4096, 5000, 512**2]
GROUPS = [(32, 2), (32, 3), (16, 1), (20, 6), (8, 8), (1024, 1), (8192, 4), (1, 64)]


@pytest.mark.parametrize(("group_channels", "groups"), GROUPS)
def test_every_element_has_one_program_that_can_hold_it(group_channels, groups):
    for n, pixels, itemsize, chip in itertools.product((1, 32, 256), PIXELS, (2, 4), CHIPS):
        for max_splits in (None, MAX_SPLITS, 3):
            config = split_launch(n, pixels, group_channels, groups, itemsize, chip, max_splits)
            tiles = config.tiles_per_split * config.num_splits
            assert tiles * config.block_p >= pixels
            assert (config.num_splits - 1) * config.tiles_per_split * config.block_p < pixels
            assert max_splits is None or config.num_splits <= max_splits
            assert config.block_c * config.block_p <= 8192
            check_block(config, group_channels, groups)
        whole = whole_group_launch(pixels, group_channels, groups, itemsize)
        if whole is not None:
            assert whole.block_p >= pixels
            assert (whole.num_splits, whole.tiles_per_split) == (1, 1)
            assert whole.block_c * whole.block_p <= WHOLE_GROUP_ELEMENTS
            check_block(whole, group_channels, groups)


def check_block(config, group_channels, groups):
    assert groups % config.groups_per_block == 0
    assert group_channels <= config.block_d < 2 * group_channels
    for size in (config.groups_per_block, config.block_d, config.block_p, config.num_warps):
        assert size & (size - 1) == 0
    elements_a_thread = config.block_c * config.block_p / (32 * config.num_warps)
    assert elements_a_thread <= 32
    assert config.num_warps == 1 or elements_a_thread >= (32 if config.block_c < 1024 else 8)


def test_one_sample_still_fills_the_chip():
    config = split_launch(1, 4096, 32, 2, 2, Chip(90, 132), None)
    assert config.num_splits * 2 // config.groups_per_block >= 100


def test_splits_give_every_multiprocessor_work_and_never_too_many_parts():
    assert enough_splits(32, Chip(90, 132)) * 32 >= 4 * 132
    assert enough_splits(1, Chip(90, 132)) == MAX_SPLITS
    assert enough_splits(100_000, Chip(90, 132)) == 1


def test_the_interpreter_has_an_h100s_sizes():
    assert chip_of(torch.device("cpu")) == (90, 132)


def test_kernels_are_launched_on_the_device_of_their_tensors(monkeypatch):
    """As in ``--device cuda:1``: Triton itself launches on the current device."""
    entered = []

    @contextmanager
    def device_of(tensor):
        entered.append(tensor)
        yield
        entered.append("left")

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    noisy = torch.zeros(1, 3, 4, 4)
    edm_denoise(noisy, noisy, 1.0, impl="triton")
    assert [x if isinstance(x, str) else tuple(x.shape) for x in entered] == [(1, 3, 4, 4), "left"]


def test_every_operator_is_made_so():
    files = [file for file in Path(kernels.__path__[0]).glob("*.py") if file.name != "launch.py"]
    assert len(files) > 8
    for file in files:
        assert "library.custom_op" not in file.read_text(), f"{file.name}: make it with launch.operator"
