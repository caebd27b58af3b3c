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


class ProcessLostError(RuntimeError):
    """Another of the processes is gone."""


@dataclass(frozen=True)
class ProcessGroup:
    """Data-parallel training processes as one of them sees them. The leader has rank 0.

    Methods that communicate raise ProcessLostError if another process is gone.
    """

    rank: int
    size: int

    def shard(self, batch_size: int) -> slice:
        """This process's rows of a batch."""
        rows = batch_size // self.size
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors by their means over all processes, which are the same everywhere, bit for bit."""
        flat = torch.cat([x.reshape(-1) for x in tensors])
        with _lost_processes_named():
            dist.all_reduce(flat)
        flat /= self.size
        parts = flat.split([x.numel() for x in tensors])
        torch._foreach_copy_(list(tensors), [part.view(x.shape) for part, x in zip(parts, tensors, strict=True)])

    def sum(self, counts: Tensor) -> None:
        """Replaces whole numbers by their sums over all processes."""
        with _lost_processes_named():
            dist.all_reduce(counts)

    def broadcast_flag(self, flag: bool = True) -> bool:
        """The leader's flag, in every process. Sent from host to host: no GPU is waited for."""
        told = torch.tensor(int(flag))
        with _lost_processes_named():
            dist.broadcast(told, src=0)
        return bool(told)

    def broadcast(self, *message: Any) -> None:
        """The leader's message to the others: numbers, strings, tensors, nested. Tensors arrive on the CPU."""
        tensors, tree = flatten(message)
        with _lost_processes_named():
            dist.broadcast_object_list([{name: x.cpu() for name, x in tensors.items()}, tree], src=0)

    def receive(self) -> tuple[Any, ...]:
        """What the leader broadcasts next."""
        received: list[Any] = [None, None]
        with _lost_processes_named():
            dist.broadcast_object_list(received, src=0)
        return unflatten(*received)


@contextmanager
def _lost_processes_named() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what gloo and NCCL raise when a connection ends
        raise ProcessLostError(f"another of the processes is gone ({str(error).strip().splitlines()[-1]})") from None


def join_process_group(device: torch.device) -> ProcessGroup:
    """Joins the other processes that torchrun started; ``device`` is this one's."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    return ProcessGroup(dist.get_rank(), dist.get_world_size())


def leave_process_group() -> None:
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


def check_shards(cfg: RunConfig, size: int) -> None:
    """Raises ValueError if a run cannot be shared by so many processes."""
    if cfg.model_free:
        raise ValueError("--model-free: plays real games in one process; start it without torchrun")
    optional = {"student_update": cfg.world_model.student, "upsampler_update": cfg.upsampling > 1}
    of_those = [name for name, there in optional.items() if there]
    for name in ("denoiser_update", *of_those, "reward_end_update", "actor_critic_update"):
        batch_size = getattr(cfg, name).batch_size
        if batch_size % size:
            raise ValueError(f"{flag(name + '.batch_size')} {batch_size}: cannot be shared equally by {size} processes")
