"""Rollouts in the imagination, without gradients: on a GPU one CUDA graph for all steps of one."""

from collections.abc import Sequence

from torch import Tensor

from diamond_fast.engine.fast_encoders import FastPolicy
from diamond_fast.engine.fast_imagination import FastImaginedEnv
from diamond_fast.engine.recompute import Played, play
from diamond_fast.engine.rollout import RolloutState
from diamond_fast.training.capture import Captured, CudaGraphs


class ImaginedRollouts:
    """Plays on where the last rollout stopped.

    Args:
        env: where to play.
        policy: who plays; its copies of the weights are refreshed before every rollout.
        num_steps: of a rollout.
        capacity: burn-ins kept for the recomputation, at most.
        graphs: how to capture a rollout; None: not at all.
    """

    def __init__(
        self, env: FastImaginedEnv, policy: FastPolicy, num_steps: int, capacity: int, graphs: CudaGraphs | None
    ):
        self.env = env
        self.policy = policy
        self.num_steps = num_steps
        self.capacity = capacity
        self._play = self._play_from if graphs is None else Captured("imagined rollout", self._play_from, graphs)

    def __call__(self, state: RolloutState) -> tuple[Played, RolloutState]:
        self.policy.refresh()
        self.env.begin_rollout()
        result = self._play([(state.obs, state.hx, state.cx)])
        self.env.end_rollout()
        # a graph overwrites its results when it is replayed, and these may be wanted for longer
        result = {name: x.clone() for name, x in result.items()}
        state = RolloutState(*(result.pop(name) for name in ("obs_after", "hx_after", "cx_after")))
        return Played(**result), state

    def _play_from(self, batches: Sequence[tuple[Tensor, ...]]) -> dict[str, Tensor]:
        state = RolloutState(*batches[0])
        played, after = play(self.env, self.policy, state, self.num_steps, self.capacity)
        return {**played._asdict(), "obs_after": after.obs, "hx_after": after.hx, "cx_after": after.cx}
