"""Optimising a model: gradient accumulation, clipping, warm-up, and figures that stay on the device."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from diamond_fast.config import UpdateConfig
from diamond_fast.training.finite import FiniteGuard
from diamond_fast.training.optim import load_optimizer, make_optimizer, set_learning_rate, warmed_up

Figures = dict[str, Tensor]  # scalars are averaged over an epoch, matrices of counts are added up
Inputs = tuple[Tensor, ...]


class Objective(Protocol):
    """What a model is trained on. Drawing a batch and its loss are apart, so that the loss can be captured."""

    def begin_epoch(self) -> None:
        """Called before an epoch's first update."""

    def draw(self) -> Inputs:
        """The next batch, on the model's device."""

    def loss(self, *inputs: Tensor) -> tuple[Tensor, Figures]:
        """Its loss (scalar), and what to report of it."""

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
        self.objective = objective
        self.cfg = cfg
        self.autocast = autocast
        self.parameters = list(model.parameters())
        self.optimizer = make_optimizer(model, cfg.lr, cfg.weight_decay, cfg.eps)
        self.guard = FiniteGuard(name, self.parameters[0].device)
        self.num_updates = 0

    def train(self, num_updates: int, advance: Callable[[], None]) -> dict[str, Any]:
        """Runs ``num_updates`` updates, calling ``advance`` after each. Waits for a GPU at the end only.

        Returns:
            means of the objective's scalars and of ``grad_norm`` (before clipping), sums of its count matrices.

        Raises:
            NonFiniteError: the loss or a gradient is not finite; neither that update nor a later one was applied.
        """
        totals: Figures = {}
        with self.autocast():
            self.objective.begin_epoch()
        for _ in range(num_updates):
            for name, value in self.step().items():
                totals[name] = totals[name] + value if name in totals else value.clone()
            advance()
        self.guard.check()
        return {name: v.tolist() if v.ndim else v.item() / num_updates for name, v in totals.items()}

    def step(self) -> Figures:
        """One update, over ``grad_acc_steps`` batches whose gradients add up, as published.

        Raises:
            NonFiniteError: as ``train``; on a CPU before anything changed, on a GPU the step did nothing and
                ``train`` says so at its end.
        """
        set_learning_rate(self.optimizer, warmed_up(self.cfg.lr, self.cfg.lr_warmup_steps, self.num_updates))
        with self.autocast():
            batches = [self.objective.draw() for _ in range(self.cfg.grad_acc_steps)]
        figures = self._apply(batches)
        self.num_updates += 1
        return figures

    def _apply(self, batches: Sequence[Inputs]) -> Figures:
        """Losses, gradients and the optimiser's step. On a GPU nothing here waits for the device."""
        self.optimizer.zero_grad()
        total = 0.0
        for inputs in batches:
            with self.autocast():
                loss, figures = self.objective.loss(*inputs)
            loss.backward()
            total = total + loss.detach()
        grad_norm = nn.utils.clip_grad_norm_(self.parameters, self.cfg.max_grad_norm)
        self.optimizer.found_inf = self.guard.watch(total, grad_norm)
        self.optimizer.step()
        return {**figures, "grad_norm": grad_norm}

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model's weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "objective": self.objective.state_dict(),
            "num_updates": self.num_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_optimizer(self.optimizer, state["optimizer"])
        self.objective.load_state_dict(state["objective"])
        self.num_updates = self.guard.num_updates = state["num_updates"]
