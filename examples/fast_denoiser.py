"""Imagine with FastDenoiser: with the denoiser of this project or of the published one, and around another network.

python examples/fast_denoiser.py                 # random weights
python examples/fast_denoiser.py Boxing.pt       # a published agent
"""

import sys

import torch

from diamond_fast import Denoiser, FastDenoiser, RunConfig

if len(sys.argv) > 1:
    fast = FastDenoiser.from_pretrained(sys.argv[1])
else:
    fast = FastDenoiser(Denoiser(RunConfig().denoiser, num_actions=18))
fast = fast.to("cuda" if torch.cuda.is_available() else "cpu")

obs = torch.zeros(8, 4, 3, 64, 64, device=fast.device)  # 8 contexts of 4 frames in [-1, 1]
act = torch.zeros(8, 4, dtype=torch.int64, device=fast.device)  # and the actions taken at them
next_obs, trajectory = fast.sample(obs, act)  # instead of DiffusionSampler.sample
print(f"{fast.path}: {tuple(next_obs.shape)} from {len(trajectory) - 1} denoising steps")

# Any network F of EDM form: F(c_in * x, c_noise, context / sigma_data, act)
conv = torch.nn.Conv2d(15, 3, 3, padding=1)
wrapped = FastDenoiser.wrap(lambda x, c_noise, context, act: conv(torch.cat((context, x), dim=1)), sigma_data=0.5)
next_obs, _ = wrapped.sample(obs.cpu(), act.cpu())
print(f"{wrapped.path}: {tuple(next_obs.shape)}")
