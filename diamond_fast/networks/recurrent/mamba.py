"""A Mamba layer (Gu & Dao 2023, arXiv 2312.00752): a short convolution and a selective scan, gated."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.networks.recurrent.config import MemoryConfig
from diamond_fast.networks.recurrent.layer import RecurrentLayer
from diamond_fast.networks.recurrent.selective_scan import scan_step, selective_scan

DT_RANGE = (1e-3, 0.1)
"""How long a step lasts at the start of training, from the shortest to the longest of the channels."""


class MambaLayer(RecurrentLayer):
    """x + out(scan(silu(conv(u))) * silu(z)), with u and z from the normalised x.

    A step that is padding enters the convolution as zeros, as what was before the first step does, and lasts no time in
    the scan. It remembers the convolution's last inputs and, of each inner channel, the scan's h.
    """

    def __init__(self, cfg: MemoryConfig):
        super().__init__()
        self.inner, self.past, self.size = cfg.expansion * cfg.width, cfg.convolution - 1, cfg.state
        self.rank = -(-cfg.width // 16)
        self.state_width = self.inner * (self.past + self.size)
        self.norm = nn.RMSNorm(cfg.width, eps=1e-5)
        self.in_proj = nn.Linear(cfg.width, 2 * self.inner, bias=False)
        bound = cfg.convolution**-0.5  # as torch initialises a convolution of one channel each
        self.taps = nn.Parameter(torch.empty(cfg.convolution, self.inner).uniform_(-bound, bound))
        self.taps_bias = nn.Parameter(torch.empty(self.inner).uniform_(-bound, bound))
        self.x_proj = nn.Linear(self.inner, self.rank + 2 * cfg.state, bias=False)
        self.dt_proj = nn.Linear(self.rank, self.inner)
        self.a_log = nn.Parameter(torch.arange(1.0, cfg.state + 1).log().repeat(self.inner, 1))
        self.skip = nn.Parameter(torch.ones(self.inner))
        self.out_proj = nn.Linear(self.inner, cfg.width, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        with torch.no_grad():  # so that softplus(bias) is log-uniform
            low, high = map(math.log, DT_RANGE)
            dt = (torch.rand(self.inner) * (high - low) + low).exp()
            self.dt_proj.bias.copy_(dt + (-(-dt).expm1()).log())

    def forward(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        u, z = self.in_proj(self.norm(x)).chunk(2, dim=-1)
        window = F.pad(u * real[..., None], (0, 0, self.past, 0))
        u, dt, b, c = self._steered(window)
        y, h = selective_scan(u, dt * real[..., None], self._a(), b, c)
        return self._out(x, y, u, z), self._joined(window.detach(), h)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        past, h = state.split((self.inner * self.past, self.inner * self.size), dim=1)
        u, z = self.in_proj(self.norm(x)).chunk(2, dim=-1)
        window = torch.cat((past.view(len(x), self.past, self.inner), u[:, None]), dim=1)
        u, dt, b, c = (part[:, 0] for part in self._steered(window))
        y, h = scan_step(h.view(-1, self.inner, self.size), u, dt, self._a(), b, c)
        return self._out(x, y, u, z), self._joined(window, h)

    def _steered(self, window: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The convolution's inputs [N,past+L,inner] -> the scan's u, dt, b, c."""
        length = window.size(1) - self.past
        u: Tensor = self.taps_bias
        for k, tap in enumerate(self.taps.unbind(0)):  # products and sums, which TF32 would not round
            u = u + window[:, k : k + length] * tap
        u = F.silu(u)
        dt, b, c = self.x_proj(u).split((self.rank, self.size, self.size), dim=-1)
        return u, F.softplus(self.dt_proj(dt)), b, c

    def _a(self) -> Tensor:
        return -self.a_log.exp()

    def _out(self, x: Tensor, y: Tensor, u: Tensor, z: Tensor) -> Tensor:
        return x + self.out_proj((y + self.skip * u) * F.silu(z))

    def _joined(self, window: Tensor, h: Tensor) -> Tensor:
        past = window[:, window.size(1) - self.past :]
        return torch.cat((past.flatten(1), h.flatten(1)), dim=1)
