"""Several processes that train one agent: one leads, the others follow, and gradients are averaged over all.

As in the published trainer: the leader collects, evaluates and saves, each process trains on its share of every batch.
Started by torchrun, which tells each process its place in the environment.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from diamond_fast.config import RunConfig
from diamond_fast.runs.nested import flatten, unflatten
from diamond_fast.settings import flag

PATIENCE = timedelta(days=2)  # followers wait while the leader plays test games; one that died is noticed at once


class CrewLostError(RuntimeError):
    """Another of the processes is gone."""


@dataclass(frozen=True)
class Crew:
    """One process's view of all. The leader has rank 0.

    All raise CrewLostError if another process is gone.
    """

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """This process's rows of a batch."""
        rows = batch_size // self.size
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors by their means over all processes, which are the same everywhere, bit for bit."""
        flat = torch.cat([x.reshape(-1) for x in tensors])
        with _noticing_losses():
            dist.all_reduce(flat)
        flat /= self.size
        parts = flat.split([x.numel() for x in tensors])
        torch._foreach_copy_(list(tensors), [part.view(x.shape) for part, x in zip(parts, tensors, strict=True)])

    def add_up(self, counts: Tensor) -> None:
        """Replaces whole numbers by their sums over all processes."""
        with _noticing_losses():
            dist.all_reduce(counts)

    def goes_on(self, decision: bool = True) -> bool:
        """The leader's decision, which the others are told. On the host: no GPU is waited for."""
        told = torch.tensor(int(decision))
        with _noticing_losses():
            dist.broadcast(told, src=0)
        return bool(told)

    def say(self, *message: Any) -> None:
        """The leader's word to the others: numbers, strings, tensors, nested. They ``hear`` it, tensors on the CPU."""
        tensors, tree = flatten(message)
        with _noticing_losses():
            dist.broadcast_object_list([{name: x.cpu() for name, x in tensors.items()}, tree], src=0)

    def hear(self) -> tuple[Any, ...]:
        """What the leader says next."""
        received: list[Any] = [None, None]
        with _noticing_losses():
            dist.broadcast_object_list(received, src=0)
        return unflatten(*received)


@contextmanager
def _noticing_losses() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what gloo and NCCL raise when a connection ends
        raise CrewLostError(f"another of the processes is gone ({str(error).strip().splitlines()[-1]})") from None


def join_crew(device: torch.device) -> Crew:
    """Meets the other processes that torchrun started; ``device`` is this one's."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    return Crew(dist.get_rank(), dist.get_world_size())


def leave_crew() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def local_device(name: str) -> str:
    """The device of this process among those on its machine, for ``--device``.

    Raises:
        ValueError: the GPUs do not suffice, or one is named.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if name not in ("auto", "cuda"):
        raise ValueError(f"--device {name}: torchrun gives each process a GPU of its own; use --device cuda")
    wanted, present = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if wanted > present:
        raise ValueError(
            f"torchrun --nproc-per-node {wanted}: this machine has {present} GPUs; start {present} or fewer"
        )
    return f"cuda:{os.environ['LOCAL_RANK']}"


def check_crew(cfg: RunConfig, size: int) -> None:
    """Raises ValueError if a run cannot be shared by so many processes."""
    if cfg.model_free:
        raise ValueError("--model-free: plays real games in one process; start it without torchrun")
    for name in ("denoiser_update", "reward_end_update", "actor_critic_update"):
        batch_size = getattr(cfg, name).batch_size
        if batch_size % size:
            raise ValueError(f"{flag(name + '.batch_size')} {batch_size}: cannot be shared equally by {size} processes")
