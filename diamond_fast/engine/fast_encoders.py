"""Reward/end model, memory and policy for use without gradients: encoders on the fastest path, the small rest as it is.

Encoders work on copies of the weights, in bfloat16 if the machine is made for it: ``refresh`` takes the weights as
they are now. LSTMs and heads read the models' own float32 weights.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.engine.cpu_program import CpuProgram
from diamond_fast.engine.cpu_training import with_modules
from diamond_fast.engine.denoiser_networks import padded
from diamond_fast.engine.fused_convs import make_backend
from diamond_fast.engine.fused_memory import fused
from diamond_fast.engine.fused_torch import Activation, Techniques
from diamond_fast.engine.lstm import Memory, unroll
from diamond_fast.engine.path import PROGRAMS, Engine, fast_dtype, runs_on_amx
from diamond_fast.engine.weight_copies import WeightCopies
from diamond_fast.networks.actor_critic.model import ActorCritic, ActorCriticEncoder
from diamond_fast.networks.exact import outside_autocast
from diamond_fast.networks.recurrent.model import MemoryModel
from diamond_fast.networks.reward_end.model import RewardEndEncoder, RewardEndModel


class FastEncoder:
    """An encoder's double, run by one of the backends.

    Args:
        network: whose weights are used.
        device, dtype: what it runs on, and in.
        techniques: what to use on a GPU.
        engine: of a path; if None, amx if there is AMX for this dtype, else operation by operation.
        first: name of its first convolution, whose input is padded with zeros to what tensor cores want.
    """

    def __init__(
        self,
        network: RewardEndEncoder | ActorCriticEncoder,
        device: torch.device,
        dtype: torch.dtype,
        techniques: Techniques,
        engine: Engine | None,
        first: str,
    ):
        self.network = network
        self.dtype = dtype
        self.techniques = techniques
        self.compiled = engine in PROGRAMS if engine else runs_on_amx(device, dtype)
        self._programs: dict[tuple[int, ...], CpuProgram] = {}
        self._pad_to = 8 if dtype != torch.float32 else 1
        self._copies = None if self.compiled else WeightCopies(network, dtype, {first: (self._pad_to, 1)})

    def refresh(self) -> None:
        """Takes the weights as they are now, in place."""
        if self._copies is not None:
            self._copies.refresh(self.network)
        for program in self._programs.values():
            program.refresh()

    def __call__(self, frames: list[Tensor], cond: Tensor | None = None) -> Tensor:
        """frames: one or more [N,C,H,W] float32, concatenated on channels; cond [N,E]. -> [N,C',H',W'] float32."""
        if self.compiled:
            program = self._program(frames)
            return program(frames, None if cond is None else program.modulation(cond))
        assert self._copies is not None
        x = torch.cat(frames, dim=1) if len(frames) > 1 else frames[0]
        x = padded(x, self.dtype, self._pad_to)
        modulation = None
        if cond is not None:
            weight, bias = self._copies.modulation_weight, self._copies.modulation_bias
            assert weight is not None
            assert bias is not None
            modulation = torch.addmm(bias, cond.to(self.dtype), weight.t())
        backend = make_backend(self._copies, self.techniques, modulation)
        return self._copies.network.walk(backend, Activation(x)).x.float()

    def _program(self, frames: list[Tensor]) -> CpuProgram:
        key = (*(x.size(1) for x in frames), *frames[0].shape[-2:])
        if key not in self._programs:
            pieces = [(x.size(1), 1.0) for x in frames]
            self._programs[key] = CpuProgram(self.network.walk, pieces, *frames[0].shape[-2:], dtype=self.dtype)
        return self._programs[key]


class FastRewardEnd:
    """Predicts as ``RewardEndModel`` does.

    Args:
        model: whose weights are used.
        dtype: of the encoder; the machine's fast one if None.
        techniques: what to use on a GPU.
        engine: as for ``FastEncoder``.
    """

    def __init__(
        self,
        model: RewardEndModel,
        dtype: torch.dtype | None = None,
        techniques: Techniques | None = None,
        engine: Engine | None = None,
    ):
        self.model, self.coding = model, model.coding
        self.device = model.device
        dtype = dtype or fast_dtype(self.device)
        self.encoder = FastEncoder(model.encoder, self.device, dtype, techniques or Techniques(), engine, "conv_in")

    def refresh(self) -> None:
        self.encoder.refresh()

    @torch.no_grad()
    def predict(
        self, obs: Tensor, act: Tensor, next_obs: Tensor, hx_cx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Shapes as in ``RewardEndModel.predict``."""
        n, t = act.shape[:2]
        with torch.autocast(self.device.type, enabled=False):
            frames = [obs.flatten(0, 1).float(), next_obs.flatten(0, 1).float()]
            x = self.encoder(frames, self.model.act_emb(act.flatten(0, 1)))
            return classify(self.model, x.reshape(n, t, -1), hx_cx)


def classify(
    model: RewardEndModel, x: Tensor, hx_cx: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """What ``RewardEndModel.predict`` returns, from the encoder's output x [N,T,F] float32."""
    lstm: Any = model.lstm  # torch's types lack its weights
    gates = F.linear(x, lstm.weight_ih_l0, lstm.bias_ih_l0 + lstm.bias_hh_l0)
    zeros = x.new_zeros(1, len(x), lstm.hidden_size)
    memory = Memory(*(s.squeeze(0).float() for s in hx_cx or (zeros, zeros)))
    memory, hidden = unroll(lstm.weight_hh_l0, gates, memory)
    logits, k = model.head(hidden), model.coding.num_logits
    return logits[..., :k], logits[..., k:], (memory.hx.unsqueeze(0), memory.cx.unsqueeze(0))


class FastMemory:
    """Remembers as ``MemoryModel`` does; layers and heads work on the model's own float32 weights.

    Args:
        model: whose weights are used.
        dtype: of the encoder; the machine's fast one if None.
        techniques: what to use on a GPU.
        engine: as for ``FastEncoder``.
    """

    def __init__(
        self,
        model: MemoryModel,
        dtype: torch.dtype | None = None,
        techniques: Techniques | None = None,
        engine: Engine | None = None,
    ):
        dtype, techniques = dtype or fast_dtype(model.device), techniques or Techniques()
        self._run = FastEncoder(model.encoder, model.device, dtype, techniques, engine, "encoder.0")
        layers = fused(model.layers) if techniques.fused_memory else model.layers
        self._memory = with_modules(model, encoder=_Called(self._run), layers=layers)
        self.coding = model.coding

    @property
    def device(self) -> torch.device:
        return self._memory.device

    def refresh(self) -> None:
        self._run.refresh()

    @torch.no_grad()
    def __call__(self, obs: Tensor, act: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes as in ``MemoryModel.forward``."""
        return self._memory(obs, act, real)

    @torch.no_grad()
    def step(self, obs: Tensor, act: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes as in ``MemoryModel.step``."""
        return self._memory.step(obs, act, state)

    @torch.no_grad()
    def classify(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes as in ``MemoryModel.classify``."""
        return self._memory.classify(e)


class _Called(nn.Module):
    """A fast encoder, called as the readable one is."""

    def __init__(self, run: FastEncoder):
        super().__init__()
        self._run = run

    def forward(self, obs: Tensor) -> Tensor:
        with outside_autocast(obs.device):
            return self._run([obs.float()])


class FastPolicy:
    """Acts and values as ``ActorCritic`` does.

    Args:
        model: whose weights are used.
        dtype: of the encoder; the machine's fast one if None.
        techniques: what to use on a GPU.
        engine: as for ``FastEncoder``.
    """

    def __init__(
        self,
        model: ActorCritic,
        dtype: torch.dtype | None = None,
        techniques: Techniques | None = None,
        engine: Engine | None = None,
    ):
        self.model = model
        self.device = model.device
        self.lstm_dim, self.distribution = model.lstm_dim, model.distribution
        self.lstm, self.actor_linear, self.critic_linear = model.lstm, model.actor_linear, model.critic_linear
        dtype = dtype or fast_dtype(self.device)
        self._encoder = FastEncoder(model.encoder, self.device, dtype, techniques or Techniques(), engine, "encoder.0")

    def refresh(self) -> None:
        self._encoder.refresh()

    @torch.no_grad()
    def encoder(self, obs: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,C',H',W'], float32."""
        with torch.autocast(self.device.type, enabled=False):
            return self._encoder([obs.float()])

    @torch.no_grad()
    def predict_act_value(
        self, obs: Tensor, hx_cx: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Shapes as in ``ActorCritic.predict_act_value``."""
        with torch.autocast(self.device.type, enabled=False):
            hx, cx = self.lstm(self.encoder(obs).flatten(1), tuple(s.float() for s in hx_cx))
            return self.actor_linear(hx), self.critic_linear(hx).squeeze(1), (hx, cx)
