"""Next frames in two resolutions on the fastest path the machine has: on a GPU both stages are one CUDA graph."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from diamond_fast.config import EngineChoice
from diamond_fast.engine.denoiser_arguments import to_frames
from diamond_fast.engine.fast_denoiser import FastDenoiser, by_itself
from diamond_fast.engine.graphs import Captured
from diamond_fast.engine.path import Path as EnginePath
from diamond_fast.networks.exact import outside_autocast
from diamond_fast.upsampling import TwoResolutions, upsampling_input
from diamond_fast.world_model import Agent, Sampler


class FastTwoStage(nn.Module):
    """Stands in for ``TwoStageSampler``: each stage is a ``FastDenoiser``, whose engine is measured at its own size.

    Args:
        denoiser: of small frames; or an agent that has an upsampler.
        upsampler: of full frames; the agent's if None.
        sampler, upsampling: how many steps each stage takes, and how; None: as for ``FastDenoiser``.
        dtype, max_graphs, engine: as for ``FastDenoiser``.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        upsampler: nn.Module | None = None,
        sampler: Any = None,
        upsampling: Any = None,
        *,
        dtype: torch.dtype | None = None,
        max_graphs: int = 8,
        engine: EngineChoice | EnginePath = "auto",
    ):
        super().__init__()
        if isinstance(denoiser, Agent):
            agent, denoiser = denoiser, denoiser.denoiser
            upsampler = upsampler or agent.upsampler
        if upsampler is None:
            raise ValueError("upsampler: there is none; frames of one size are drawn by FastDenoiser")
        options: dict[str, Any] = {"dtype": dtype, "max_graphs": max_graphs, "engine": engine}
        self.small = FastDenoiser(denoiser, sampler, **options)
        self.full = FastDenoiser(upsampler, upsampling, **options)
        self.max_graphs = max_graphs
        self._captured: tuple[tuple[Sampler, Sampler], Callable[..., Any]] | None = None

    @property
    def device(self) -> torch.device | None:
        """Where the weights are."""
        return self.small.device

    @property
    def path(self) -> str:
        """What runs each stage: the paths of both."""
        return f"{self.small.path}, upsampling: {self.full.path}"

    def refresh(self) -> None:
        """Takes the weights as they are now: see ``FastDenoiser.refresh``."""
        self.small.refresh()
        self.full.refresh()

    def __getstate__(self) -> dict[str, Any]:
        """Graphs are made anew where they are needed."""
        return {**self.__dict__, "_captured": None}

    @by_itself
    def sample(
        self, prev_obs: Tensor, prev_act: Tensor, prev_full: Tensor, randn: Callable[..., Tensor] = torch.randn
    ) -> TwoResolutions:
        """As ``TwoStageSampler.sample``, in float32.

        Raises:
            TypeError, ValueError: an argument does not fit; the message names it.
        """
        frames, context, prev_act = self.small.given_context(prev_obs, prev_act)
        prev_full = to_frames("prev_full", prev_full, 5)
        n, _, _, h, w = prev_full.shape
        if n != len(frames) or h % frames.size(2) or h * frames.size(3) != w * frames.size(2):
            raise ValueError(f"prev_full: expected frames {list(frames.shape)}, enlarged, got {list(prev_full.shape)}")
        example, act = upsampling_input(frames, prev_full)
        self.full.given_context(example, act)
        device = frames.device
        if n == 0:
            small, small_trajectory = self.small.sample(prev_obs, prev_act)
            full, full_trajectory = self.full.sample(example, act)
            return TwoResolutions(small, full, small_trajectory, full_trajectory)
        with outside_autocast(device):
            first = self.small._ready(device, frames, prev_act)
            second = self.full._ready(device, prev_full[:, 0], act)
            noise = first.noise(frames, randn), second.noise(prev_full[:, 0], randn)
            draw = self._drawing(first.sampler, second.sampler, graphs=first.graphs and second.graphs)
            small_trajectory, full_trajectory = draw(context, prev_act, prev_full, *noise)
        return TwoResolutions(small_trajectory[-1], full_trajectory[-1], small_trajectory, full_trajectory)

    def _drawing(self, first: Sampler, second: Sampler, graphs: bool) -> Callable[..., Any]:
        """Both stages as one function, captured if graphs may be; anew if a stage took another path."""
        if self._captured is None or self._captured[0] != (first, second):

            def draw(context: Tensor, act: Tensor, prev_full: Tensor, *noise: Tensor) -> tuple[list, list]:
                of_small, of_full = noise
                small = first.sample(context, act, of_small)
                frames, nothing = upsampling_input(small[-1], prev_full)
                return small, second.sample(frames.flatten(1, 2), nothing, of_full)

            function: Callable[..., Any] = draw
            if graphs:
                function = Captured("FastTwoStage.sample", draw, max_graphs=self.max_graphs)
            self._captured = ((first, second), function)
        return self._captured[1]
