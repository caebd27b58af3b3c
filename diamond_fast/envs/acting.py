"""A recurrent policy at play in several environments at once."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from diamond_fast.frames import to_float
from diamond_fast.networks.actor_critic.distributions import distribution_of
from diamond_fast.spec import Action


class Policy(Protocol):
    """What playing needs of an actor-critic."""

    lstm_dim: int

    @property
    def device(self) -> torch.device: ...

    def predict_act_value(
        self, obs: Tensor, hx_cx: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """obs [N,C,H,W] in [-1, 1] and the LSTM's state, each [N,D] -> outputs [N,A], values [N], the new state."""


class Player:
    """Draws actions from a policy and carries its LSTM state from step to step.

    Random numbers come from one generator on the CPU, 1 + N a step (more if an action takes several), so that they are
    the same on every device.

    Args:
        num_envs: N.
        seed: of the generator.
        action: what can be done.
    """

    def __init__(self, num_envs: int, seed: int, action: Action):
        self._num_envs = num_envs
        self._action = action
        self._generator = torch.Generator().manual_seed(seed)
        self._hx_cx: tuple[Tensor, Tensor] | None = None  # each [N,D]; None: zeros

    @torch.inference_mode()
    def act(self, policy: Policy | None, obs: np.ndarray, epsilon: float = 0.0, temperature: float = 1.0) -> np.ndarray:
        """Play one step: actions [N, ...], from softmax(logits / temperature) or, all together, uniform.

        Buttons and numbers are drawn from their own distributions, at that temperature too.

        Args:
            policy: from whose outputs to draw; None: actions are uniform.
            obs: uint8 [N,H,W,C].
            epsilon: probability of uniform actions.
            temperature: above 0; below 1 the likeliest actions are drawn more often than the policy says.
        """
        outputs = None if policy is None else self._outputs(policy, obs)
        if self._uniform(()) < epsilon or outputs is None:
            return self._action.sample(self._uniform, (self._num_envs,))
        uniform = torch.from_numpy(self._uniform((self._num_envs, *(self._action.shape or (1,)))))
        distribution = distribution_of(self._action)
        return distribution.action_at(outputs.cpu().double(), uniform, temperature).numpy()

    def _uniform(self, shape: tuple[int, ...]) -> np.ndarray:
        return torch.rand(shape, dtype=torch.float64, generator=self._generator).numpy()

    def _outputs(self, policy: Policy, obs: np.ndarray) -> Tensor:
        if self._hx_cx is None:
            zeros = torch.zeros(self._num_envs, policy.lstm_dim)
            self._hx_cx = zeros, zeros
        hx, cx = (x.to(policy.device) for x in self._hx_cx)
        frames = torch.from_numpy(obs).to(policy.device)
        outputs, _, self._hx_cx = policy.predict_act_value(to_float(frames), (hx, cx))
        return outputs

    @torch.inference_mode()
    def forget(self, ended: np.ndarray) -> None:
        """Zero the LSTM's state where an episode ended (bool [N])."""
        if ended.any() and self._hx_cx is not None:
            hx, cx = self._hx_cx
            goes_on = torch.from_numpy(~ended)[:, None].to(hx.device)
            self._hx_cx = hx * goes_on, cx * goes_on

    def state_dict(self) -> dict[str, Tensor]:
        """``generator`` uint8 [...]; ``hx``, ``cx`` [N,D] on the CPU, once a policy has played."""
        state = {"generator": self._generator.get_state()}
        if self._hx_cx is not None:
            state |= {"hx": self._hx_cx[0].cpu().clone(), "cx": self._hx_cx[1].cpu().clone()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a ``state_dict``."""
        self._generator.set_state(state["generator"])
        self._hx_cx = (state["hx"], state["cx"]) if "hx" in state else None
