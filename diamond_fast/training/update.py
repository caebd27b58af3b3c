"""Optimising a model: gradient accumulation, clipping, warm-up, and figures that stay on the device."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diamond_fast.config import UpdateConfig
from diamond_fast.training.optim import make_optimizer

Figures = dict[str, Tensor]  # scalars are averaged over an epoch, matrices of counts are added up


class NonFiniteError(FloatingPointError):
    """A loss or gradient became NaN or infinite. The weights are those from before it."""


class Objective(Protocol):
    """What a model is trained on."""

    def begin_epoch(self) -> None:
        """Called before an epoch's first update."""

    def __call__(self) -> tuple[Tensor, Figures]:
        """The loss of the next batch (scalar), and what to report of it."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Update:
    """Trains one model on one objective.

    Args:
        name: of the model, for messages.
        objective: gives the losses.
        cfg: how the model is optimised.
        autocast: makes the context losses are computed in.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        objective: Objective,
        cfg: UpdateConfig,
        autocast: Callable[[], AbstractContextManager],
    ):
        self.name = name
        self.model = model
        self.objective = objective
        self.cfg = cfg
        self.autocast = autocast
        self.optimizer, self.schedule = make_optimizer(model, cfg.lr, cfg.weight_decay, cfg.eps, cfg.lr_warmup_steps)
        self.num_updates = 0

    def train(self, num_updates: int, advance: Callable[[], None]) -> dict[str, Any]:
        """Runs ``num_updates`` updates, calling ``advance`` after each.

        Returns:
            means of the objective's scalars and of ``grad_norm`` (before clipping), sums of its count matrices.

        Raises:
            NonFiniteError: the loss or a gradient is not finite; that update was not applied.
        """
        totals: Figures = {}
        with self.autocast():
            self.objective.begin_epoch()
        for _ in range(num_updates):
            for name, value in self.step().items():
                totals[name] = totals[name] + value if name in totals else value
            advance()
        return {name: v.tolist() if v.ndim else v.item() / num_updates for name, v in totals.items()}

    def step(self) -> Figures:
        """One update, over ``grad_acc_steps`` batches whose gradients add up, as published."""
        for _ in range(self.cfg.grad_acc_steps):
            with self.autocast():
                loss, figures = self.objective()
            loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.max_grad_norm)
        if not torch.isfinite(loss.detach() + grad_norm):
            self.optimizer.zero_grad()
            raise NonFiniteError(
                f"{self.name}: update {self.num_updates + 1} has loss {loss.item():.4g} and gradient norm "
                f"{grad_norm.item():.4g}; it was not applied"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.num_updates += 1
        return {**figures, "grad_norm": grad_norm}

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model's weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "objective": self.objective.state_dict(),
            "num_updates": self.num_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.objective.load_state_dict(state["objective"])
        self.num_updates = state["num_updates"]
