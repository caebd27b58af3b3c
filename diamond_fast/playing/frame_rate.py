"""How fast the world model will run here."""

import time
from dataclasses import replace

import torch

from diamond_fast.playing.source import Source
from diamond_fast.playing.worlds import Dream

MEASURE_FOR = 1.0  # seconds


@torch.inference_mode()
def measure_frame_rate(source: Source, denoising_steps: int) -> float:
    """Imagined frames a second, with reward/end model and policy as in a game. Takes about a second, or two frames."""
    cfg = source.cfg.world_model
    dream = Dream(source, replace(cfg, sampler=replace(cfg.sampler, num_steps=denoising_steps)), seed=0)
    policy = source.agent.actor_critic
    memory = (torch.zeros(1, policy.lstm_dim, device=source.device),) * 2
    dream.begin()

    def frame() -> None:
        outcome = dream.step(0)
        policy.predict_act_value(outcome.obs, memory)[1].item()  # waits for the device

    frame()  # the first one is slower: memory is allocated, kernels are chosen
    count, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < MEASURE_FOR:
        frame()
        count += 1
    return count / seconds
