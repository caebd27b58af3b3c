"""What a run's settings become: the updates of its models."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_world import SMALL_WORLD, make_agent, make_replay

from diamond_fast.engine.choose import choose_path
from diamond_fast.replay import Replay
from diamond_fast.training.make_updates import make_updates

READABLE = choose_path(torch.device("cpu"), "fp32", "readable")


def replay_with_a_rare_reward() -> Replay:
    """An episode that goes on: one of 150 steps is rewarded."""
    replay = Replay((8, 8, 3), capacity=200)
    frame, no = np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, bool)
    for t in range(150):
        replay.append(frame, np.zeros(1, np.int64), np.array([t == 70], np.float32), no, no, frame)
    replay.commit()
    return replay


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_reward_end_model_alone_learns_from_a_share_of_events(share):
    cfg = replace(SMALL_WORLD, reward_end_event_share=share)
    updates = make_updates(cfg, make_agent(), replay_with_a_rare_reward(), READABLE, segments_seed=0)

    def rewarded(name):
        segments = updates[name].objective.segments
        return torch.cat([next(segments).rew.ne(0).any(1) for _ in range(50)]).float().mean()

    assert (rewarded("reward_end") == 1) == (share == 1)
    assert rewarded("denoiser") < 0.5


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_imagined_episodes_begins_with_a_first_frame(share):
    cfg = replace(SMALL_WORLD, world_model=replace(SMALL_WORLD.world_model, first_frame_share=share))
    updates = make_updates(cfg, make_agent(), make_replay([30, 25]), READABLE, segments_seed=0)
    contexts = updates["actor_critic"].objective.env.initial_states.contexts
    known = torch.cat([next(contexts).pixel_mask.sum(1) for _ in range(20)])
    assert (known == 1).all() if share else known.float().mean() > 2


def test_each_model_has_its_own_rate_into_its_lstm():
    rate = replace(SMALL_WORLD.reward_end_update, lstm_input_lr_scale=0.25)
    cfg = replace(SMALL_WORLD, reward_end_update=rate)
    updates = make_updates(cfg, make_agent(), make_replay([30, 25]), READABLE, segments_seed=0)
    scales = {name: [g["lr_scale"] for g in update.optimizer.param_groups] for name, update in updates.items()}
    assert scales == {"denoiser": [1.0, 1.0], "reward_end": [1.0, 1.0, 0.25], "actor_critic": [1.0, 1.0]}
