"""A gated recurrent unit (Cho et al. 2014, arXiv 1406.1078) as a layer, which begins with gates that remember."""

import torch
from torch import Tensor, nn

from diamond_fast.networks.recurrent.config import MemoryConfig
from diamond_fast.networks.recurrent.layer import RecurrentLayer


class GRULayer(RecurrentLayer):
    """x + h, with h from the normalised x and the h before. At a step that is padding, h stays. It remembers h.

    Gates half open forget a thing within five steps, and no gradient comes back from further. So the update gates begin
    with times to remember of up to ``cfg.window`` steps (Tallec & Ollivier 2018, arXiv 1804.11188).
    """

    def __init__(self, cfg: MemoryConfig):
        super().__init__()
        self.state_width = cfg.width
        self.norm = nn.RMSNorm(cfg.width, eps=1e-5)
        self.from_input = nn.Linear(cfg.width, 3 * cfg.width)
        self.from_state = nn.Linear(cfg.width, 3 * cfg.width)
        nn.init.orthogonal_(self.from_state.weight)
        with torch.no_grad():  # sigmoid(log(n)) = 1 - 1 / (n + 1): so much of h is kept at a step
            _, update, _ = self.from_input.bias.chunk(3)
            update.uniform_(1, max(cfg.window - 1, 1)).log_()

    def forward(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        inputs, h, hs = self.from_input(self.norm(x)), x.new_zeros(len(x), self.state_width), []
        for t in range(x.size(1)):
            h = torch.where(real[:, t, None], self._next(inputs[:, t], h), h)
            hs.append(h)
        return x + torch.stack(hs, dim=1), h.detach()

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h = self._next(self.from_input(self.norm(x)), state)
        return x + h, h

    def _next(self, inputs: Tensor, h: Tensor) -> Tensor:
        """Reset and update gate, and the new content, in this order among the inputs [N,3D]."""
        reset, update, content = inputs.chunk(3, dim=1)
        reset_h, update_h, content_h = self.from_state(h).chunk(3, dim=1)
        reset, update = torch.sigmoid(reset + reset_h), torch.sigmoid(update + update_h)
        return (1 - update) * torch.tanh(content + reset * content_h) + update * h
