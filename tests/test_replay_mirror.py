"""Batches whose frames stay on the device equal those that bring them along."""

import numpy as np
import pytest
import torch
from replay_model import SHAPE, random_steps

from diamond_fast.replay import Replay

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_threads", [0, 2])
def test_mirrored_batches_equal_plain_ones(device, num_threads):
    """While the buffer grows, from nothing, in several environments."""
    replay, rng = Replay(SHAPE, num_envs=3, capacity=3000), np.random.default_rng(0)
    mirror = replay.mirror(device)
    arguments = {"batch_size": 16, "seq_length": 6, "beyond_end": True, "seed": 5}
    mirrored = replay.segments(**arguments, num_threads=num_threads, mirror=mirror)
    plain = replay.segments(**arguments, num_threads=0)
    for _ in range(40):
        random_steps(replay, rng, 15)
        replay.commit()
        for _ in range(3):
            ours, theirs = next(mirrored).to(device), next(plain)
            assert ours.frames is None
            assert torch.equal(ours.obs().cpu(), theirs.obs())
            for name in ("pixel_mask", "act", "rew", "end", "trunc", "mask_padding", "episode", "start"):
                assert torch.equal(getattr(ours, name).cpu(), getattr(theirs, name)), name
            assert theirs.num_bytes - ours.num_bytes >= 16 * 6 * 6  # the frames


def test_slots_tell_where_frames_are_stored():
    replay = Replay(SHAPE, num_envs=2, capacity=100)
    random_steps(replay, np.random.default_rng(0), 20)
    replay.commit()
    batch = next(replay.segments(32, 5, beyond_end=True, num_threads=0))
    assert torch.equal(batch.slot >= 0, batch.pixel_mask)
    frames, *_ = replay._store.slots(0, 100)
    in_first_env = (batch.slot >= 0) & (batch.slot < 100)
    assert in_first_env.any()
    np.testing.assert_array_equal(batch.frames[in_first_env].reshape(-1, 6), frames[batch.slot[in_first_env].numpy()])
