"""Losses and gradients must be finite before they reach the weights, and finding out must not stall a GPU."""

import torch
from torch import Tensor


class NonFiniteError(FloatingPointError):
    """A loss or gradient became NaN or infinite. The weights are those from before it."""


class FiniteGuard:
    """Watches one model's updates for a loss or a gradient norm that is not finite.

    On a CPU the first one raises at once. On a GPU it sets a flag there, which turns that optimiser step and all
    later ones into nothing; ``check`` reads it.

    Args:
        name: of the model, for the message.
        device: where losses and gradients are.
    """

    def __init__(self, name: str, device: torch.device):
        self.name = name
        self.waits = device.type == "cpu"
        self.num_updates = 0  # up to the last check
        self._found = torch.zeros((), device=device)
        self._watched = torch.zeros((), device=device)
        self._culprit = torch.zeros(3, device=device)  # updates since the last check, loss, gradient norm

    def watch(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Looks at one update before it is applied, with nothing but operations on the device.

        Returns:
            scalar float32, 1 if the update must not be applied: what fused optimisers know as ``found_inf``.

        Raises:
            NonFiniteError: it is not finite, on a CPU.
        """
        self._watched += 1
        now = torch.stack((self._watched, loss.float(), grad_norm.float()))
        bad = ~now.isfinite().all()
        self._culprit.copy_(torch.where(self._found.bool() | ~bad, self._culprit, now))
        self._found.copy_(torch.where(bad, 1.0, self._found))
        if self.waits and self._found:
            self.check()
        return self._found

    def check(self) -> None:
        """Waits for the device.

        Raises:
            NonFiniteError: an update since the last check was not finite. Watching goes on after it.
        """
        found, watched, update, loss, norm = torch.cat(
            (torch.stack((self._found, self._watched)), self._culprit)
        ).tolist()
        applied = self.num_updates + int(watched)
        culprit = self.num_updates + int(update)
        for tensor in (self._found, self._watched, self._culprit):
            tensor.zero_()
        if found:
            self.num_updates = culprit - 1
            raise NonFiniteError(
                f"{self.name}: update {culprit} has loss {loss:.4g} and gradient norm {norm:.4g}; it was not applied"
            )
        self.num_updates = applied
