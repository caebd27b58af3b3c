"""What tests of imagination begin with: random games of 8x8 pixels, and the readable environment that goes on."""

import torch

from diamond_fast.config import SamplerConfig, WorldModelConfig
from diamond_fast.engine.imagination import ImaginedEnv, InitialStates
from diamond_fast.replay import Replay
from diamond_fast.world_model import DiffusionSampler

SIZE, CONTEXT, ENVS, ACTIONS, HORIZON = 8, 4, 5, 3, 3
CFG = WorldModelConfig(SamplerConfig(num_steps=2), horizon=HORIZON, num_batches_to_preload=20)


def make_replay(action):
    g = torch.Generator().manual_seed(1)
    replay = Replay((SIZE, SIZE, 3), capacity=60, action=action)
    for t in range(40):
        frame, last = torch.randint(256, (2, 1, SIZE, SIZE, 3), generator=g, dtype=torch.uint8).numpy()
        end = torch.tensor([t % 13 == 12]).numpy()
        act = torch.randint(ACTIONS, (1,), generator=g).numpy()
        if action.shape:
            act = action.sample(lambda shape: torch.rand(shape, dtype=torch.float64, generator=g).numpy(), (1,))
        replay.append(frame, act, torch.zeros(1).numpy(), end, ~end & False, last)
    replay.commit()
    return replay


def make_twin(models, replay, seed=0):
    starts = InitialStates(replay.segments(ENVS, CONTEXT, seed=seed), models[1], CFG.num_batches_to_preload)
    sampler = DiffusionSampler(models[0], CFG.sampler)
    return ImaginedEnv(sampler, models[1], HORIZON, starts, ENVS, torch.Generator().manual_seed(seed))
