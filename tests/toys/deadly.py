"""A network that works as it is written, and kills the process if it is run otherwise: as a bad kernel does."""

import os
import signal

import torch
from torch import nn


class Deadly(nn.Module):
    conditioning_modules = ()

    def __init__(self):
        super().__init__()
        self.conv_in, self.conv_out = nn.Conv2d(15, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, noisy_next_obs, c_noise, obs, act):
        return self.conv_out(self.conv_in(torch.cat((obs, noisy_next_obs), dim=1)))

    def conditioning(self, levels, act):
        os.kill(os.getpid(), signal.SIGKILL)

    def walk(self, backend, x):
        """What makes it one that can be run operation by operation."""
