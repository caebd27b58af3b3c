"""Optimising a model: gradient accumulation, clipping, warm-up, and figures that stay on the device."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from diamond_fast.config import UpdateConfig
from diamond_fast.training.finite import FiniteGuard, NonFiniteError
from diamond_fast.training.optim import load_optimizer, make_optimizer, set_learning_rate, warmed_up
from diamond_fast.training.process_group import ProcessGroup

Figures = dict[str, Tensor]  # scalars are averaged over an epoch, matrices of counts are added up
Inputs = tuple[Tensor, ...]
MOST_SKIPPED = 20
"""Updates skipped from an epoch's first one on, after which the model is taken to be beyond help."""


class Objective(Protocol):
    """What a model is trained on. Drawing a batch and its loss are apart, so that the loss can be captured."""

    def begin_epoch(self) -> None:
        """Called before an epoch's first update."""

    def recover(self) -> None:
        """Called after a loss that was not finite: forgets what it would carry on from it."""

    def draw(self) -> Inputs:
        """The next batch, on the model's device."""

    @property
    def loss(self) -> Callable[..., tuple[Tensor, Figures]]:
        """Takes a batch. Returns its loss (scalar), and what to report of it."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Update:
    """Trains one model on one objective.

    Args:
        name: of the model, for messages.
        objective: gives the losses.
        cfg: how the model is optimised.
        autocast: makes the context losses are computed in.
        on_nonfinite: "skip" leaves out an update that is not finite and goes on; "stop" raises.
        captured: makes losses, gradients and the optimiser's step one CUDA graph, as ``Captured`` does; None: they are
            launched one by one.
        group: processes whose gradients are averaged, each from its share of the batches.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        objective: Objective,
        cfg: UpdateConfig,
        autocast: Callable[[], AbstractContextManager],
        on_nonfinite: Literal["stop", "skip"] = "stop",
        captured: Callable[[str, Callable], Callable] | None = None,
        group: ProcessGroup | None = None,
    ):
        self.name = name
        self.objective = objective
        self.cfg = cfg
        self.autocast = autocast
        self.group = group
        self.skips = on_nonfinite == "skip"
        self.parameters = list(model.parameters())
        self.optimizer = make_optimizer(model, cfg.lr, cfg.weight_decay, cfg.eps, cfg.lstm_input_lr_scale)
        self.guard = FiniteGuard(name, self.parameters[0].device)
        self.num_updates = 0
        self._apply = self.apply if captured is None else captured(name, self.apply)
        self._begin()

    def _begin(self) -> None:
        """No update of an epoch is done yet."""
        self.done = 0
        """Updates of the epoch under way, those skipped included."""
        self.num_skipped = 0
        self._totals: Figures = {}

    def train(self, num_updates: int, advance: Callable[[], None]) -> dict[str, Any]:
        """Runs an epoch's ``num_updates`` updates, calling ``advance`` after each. Waits for a GPU at the end only.

        ``advance`` may raise: called again, also after ``state_dict`` and ``load_state_dict``, this does the rest.

        Returns:
            means of the objective's scalars and of ``grad_norm`` (before clipping), sums of its count matrices, and
            ``skipped_updates``, which are in none of them.

        Raises:
            NonFiniteError: the loss or a gradient is not finite; neither that update nor a later one was applied.
                If such updates are skipped: an epoch's first 20 all were. Or: a weight is not finite at the end.
        """
        if self.done == 0:
            with self.autocast():
                self.objective.begin_epoch()
        while self.done < num_updates:
            self._step_or_skip()
            self.done += 1
            advance()
        self.guard.check()
        self.check_weights()
        if self.group is not None:
            for value in self._totals.values():
                self.group.sum(value) if value.ndim else self.group.average([value])
        num_applied = num_updates - self.num_skipped
        figures = {name: v.tolist() if v.ndim else v.item() / num_applied for name, v in self._totals.items()}
        figures["skipped_updates"] = self.num_skipped
        self._begin()
        return figures

    def check_weights(self) -> None:
        """Raises NonFiniteError if one is not finite.

        A finite gradient can still push a weight out of range; named is where it happened, not where it shows.
        """
        if not torch.stack([p.isfinite().all() for p in self.parameters]).all():
            raise NonFiniteError(f"{self.name}: update {self.num_updates} left weights that are not finite")

    def _step_or_skip(self) -> None:
        try:
            figures = self.step()
            if self.skips:
                self.guard.check()
        except NonFiniteError as error:
            if not self.skips:
                raise
            self.num_skipped += 1
            if self.num_skipped >= MOST_SKIPPED and self.num_skipped > self.done:
                raise NonFiniteError(f"{error}, like the {self.done} before it in this epoch") from None
            self.objective.recover()
            return
        for name, value in figures.items():
            self._totals[name] = self._totals[name] + value if name in self._totals else value

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

    def apply(self, batches: Sequence[Inputs]) -> Figures:
        """Losses, gradients and the optimiser's step. On a GPU nothing here waits for the device."""
        self.optimizer.zero_grad()
        total: Any = 0.0
        for inputs in batches:
            with self.autocast():
                loss, figures = self.objective.loss(*inputs)
            loss.backward()
            total = total + loss.detach()
        if self.group is not None:
            self.group.average([total, *(p.grad for p in self.parameters if p.grad is not None)])
        grad_norm = nn.utils.clip_grad_norm_(self.parameters, self.cfg.max_grad_norm)
        self.optimizer.found_inf = self.guard.watch(total, grad_norm)  # type: ignore[attr-defined] # as fused ones read it
        self.optimizer.step()
        return {**figures, "grad_norm": grad_norm}

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model's weights. Raises NonFiniteError if ``train`` would at its end."""
        self.guard.check()
        return {
            "optimizer": self.optimizer.state_dict(),
            "objective": self.objective.state_dict(),
            "num_updates": self.num_updates,
            "done": self.done,
            "num_skipped": self.num_skipped,
            "totals": dict(self._totals),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_optimizer(self.optimizer, state["optimizer"])
        self.objective.load_state_dict(state["objective"])
        self.num_updates = self.guard.num_updates = state["num_updates"]
        self.done, self.num_skipped = state["done"], state["num_skipped"]
        self._totals = {name: value.to(self.parameters[0].device) for name, value in state["totals"].items()}
