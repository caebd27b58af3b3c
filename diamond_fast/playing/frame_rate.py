"""How fast the world model will run here."""

import statistics

import torch

from diamond_fast.playing.source import Source
from diamond_fast.playing.worlds import Dream
from diamond_fast.timing import timed

MEASURE_FOR = 1.0  # seconds


@torch.inference_mode()
def measure_frame_rate(source: Source, denoising_steps: int) -> float:
    """Imagined frames a second, with reward/end model and policy as in a game. Takes about a second, or two frames."""
    dream = Dream(source, source.cfg.world_model.with_denoising_steps(denoising_steps), seed=0)
    policy = source.policy
    memory = torch.zeros(1, 0 if policy is None else policy.lstm_dim, device=source.device)
    dream.begin()

    def frame() -> None:
        outcome = dream.step(source.panel.idle)
        if policy is not None:
            policy.predict_act_value(outcome.obs, (memory, memory))
        outcome.obs.sum().item()  # waits for the device

    return 1 / statistics.fmean(t.wall for t in timed(frame, MEASURE_FOR))
