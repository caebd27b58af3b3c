"""What an update launches and moves on a GPU, counted: a change that costs launches or bytes there shows here."""

import pytest
import torch
from update_counts import CountDevice, as_on_a_gpu, count, foreach_launches

from diamond_fast.engine.fused_torch import Activation, FusedTorch, Techniques
from diamond_fast.networks.backend import res_block
from diamond_fast.networks.blocks import ResBlock

# What was counted, and some per cent for another version of torch.
MOST = {"denoiser": (1490, 14.3), "student": (2780, 28.6), "reward_end": (465, 18.1), "actor_critic": (370, 8.3)}
# Noise is drawn as the readable loss draws it, channels first: two of the loss's small inputs at each of two steps,
# there and back; the student's at the teacher's steps and at its own. The reward/end model's LSTM takes features
# channels first, and gives their gradient so.
LAYOUT_COPIES = {"denoiser": 8, "student": 16, "reward_end": 1, "actor_critic": 0}


@pytest.mark.parametrize("model", list(MOST))
def test_an_update_at_batch_32(model):
    counted = count(model)
    launches, gigabytes = MOST[model]
    assert 0.9 * launches < counted.launches.total() <= launches
    assert 0.9 * gigabytes < counted.bytes.total() / 1e9 <= gigabytes
    assert counted.launches["layout copies"] == LAYOUT_COPIES[model]
    assert counted.launches["frames_to_float"] == (model != "actor_critic")  # whose frames are floats already


def test_a_convolution_is_counted_as_written_down_by_hand():
    """8 x 32 x 16 x 16 in bfloat16, 3x3: one pass forward; of the two passes back each reads the gradient."""
    with torch.device("meta"), as_on_a_gpu(), CountDevice() as counted:
        x = torch.empty(8, 32, 16, 16, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
        weight = torch.empty(32, 32, 3, 3, dtype=torch.bfloat16, requires_grad=True)
        counted.launches.clear()
        torch.nn.functional.conv2d(x, weight, padding=1).backward(torch.empty_like(x))
    image, weights = 8 * 32 * 16 * 16 * 2, 32 * 32 * 9 * 2
    assert dict(counted.launches) == {"convolution": 1, "convolution_backward": 2}
    assert counted.bytes["convolution"] == 2 * image + weights
    assert counted.bytes["convolution_backward"] == (image + weights + image) + (image + image + weights)


def test_a_block_is_counted_as_written_down_by_hand():
    """Two norms, two convolutions, two passes that add biases and residual."""
    with torch.no_grad(), torch.device("meta"), as_on_a_gpu(), CountDevice() as counted:
        block = ResBlock(64, 64, 8, attn=False).to(torch.bfloat16)
        x, cond = torch.empty(4, 64, 64, 64, dtype=torch.bfloat16), torch.empty(4, 8, dtype=torch.bfloat16)
        x = Activation(x.to(memory_format=torch.channels_last), torch.empty(4, 2, 8, 3))
        counted.launches.clear()
        res_block(FusedTorch(None, Techniques(), cond=cond), block, [x])
    expected = {"ada_group_norm_silu": 2, "convolution": 2, "bias_residual_stats": 2, "addmm": 2}
    assert dict(counted.launches) == expected


def test_lists_of_tensors_are_launched_in_portions():
    sizes = torch.empty(10, device="meta"), torch.empty(65536 * 320, device="meta")
    assert foreach_launches([[sizes[0]] * 64] * 2) == 1
    assert foreach_launches([[sizes[0]] * 65] * 2) == 2
    assert foreach_launches([[sizes[0]] * 111]) == 2
    assert foreach_launches([[sizes[1]]]) == 1
    assert foreach_launches([[sizes[1], sizes[0]]]) == 2
