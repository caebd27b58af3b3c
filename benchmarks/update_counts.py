"""Counts what an update launches on a GPU and the bytes it moves, by the kind of operation.

    python benchmarks/update_counts.py

Runs without a GPU, on meta tensors, with the paper's networks at batch 32. Counted is all that a captured update holds:
bytes to floats, casts of the weights, loss, gradients, clipping, the finite check, AdamW. Not counted: drawing and
moving the batch, the learning rate, and what libraries launch besides (cuDNN's and cuBLAS's reductions of split sums).

Every operation of torch that is not a mere view is one launch, with exceptions in ``LAUNCHES``. It reads all inputs and
writes all outputs once, whatever a cache would save; kernels of ours that read twice count twice. The layout that cuDNN
gives its results is the inputs'.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diamond_fast.config import RunConfig, WorldModelConfig
from diamond_fast.engine.denoiser_networks import fast_sampler
from diamond_fast.engine.fused_training import fused
from diamond_fast.engine.recompute import Played, usual_capacity
from diamond_fast.formulations.config import StepsConfig
from diamond_fast.kernels import ada_group_norm_silu, dispatch
from diamond_fast.kernels.frames_to_float import frames_to_float
from diamond_fast.training.objectives import (
    ActorCriticObjective,
    DenoiserObjective,
    RewardEndObjective,
    StudentObjective,
)
from diamond_fast.training.update import Update
from diamond_fast.world_model import Agent, Denoiser

BATCH, NUM_ACTIONS, BURN_IN = 32, 18, 3
MODELS = ("denoiser", "student", "reward_end", "actor_critic")
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "_unsafe_view"}
FREE |= {"_record_function_enter_new", "_record_function_exit"}
MAX_TENSORS = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}  # of one foreach launch, by the number of lists
MAX_CHUNKS, CHUNK = 320, 65536


def num_bytes(x: Tensor) -> int:
    """Of memory that is read or written: expanded dimensions lie there once."""
    count = x.element_size()
    for size, stride in zip(x.shape, x.stride(), strict=True):
        count *= size if stride else 1
    return count


def foreach_launches(lists: list[list[Tensor]]) -> int:
    """As torch cuts lists of tensors into launches."""
    launches = tensors = chunks = 0
    for x in lists[0]:
        tensors += 1
        for _ in range(-(-x.numel() // CHUNK)):
            chunks += 1
            if chunks == MAX_CHUNKS:
                launches, tensors, chunks = launches + 1, 1, 0
        if tensors == MAX_TENSORS[len(lists)]:
            launches, tensors, chunks = launches + 1, 0, 0
    return launches + int(chunks > 0)


def norm_backward_launches(args: tuple) -> int:
    """One, or two if a group is too large for one program; two sums over the samples if a gain is one for all."""
    _, x, x2, scale, _, _, _, groups, _ = args
    return (1 if ada_group_norm_silu.whole_groups_fit(x, x2, groups) else 2) + (2 if scale.dim() == 1 else 0)


LAUNCHES: dict[str, Callable[[tuple], int]] = {
    "convolution": lambda args: 1 if args[2] is None else 2,  # cuDNN's bias is a pass of its own
    "convolution_backward": lambda args: sum(args[-1]),
    "_scaled_dot_product_flash_attention_backward": lambda args: 3,
    "max_pool2d_with_indices_backward": lambda args: 2,  # zeros first
    "embedding_dense_backward": lambda args: 2,
    "edm_loss": lambda args: 2,
    "ada_group_norm_silu_backward": norm_backward_launches,
    "lstm_unroll": lambda args: 2 * args[1].size(1) + 2,  # a product and a kernel a step, the first memory copied
    "lstm_unroll_backward": lambda args: 2 * args[2].size(1) + 3,  # one product more, and two first gradients
}


def launches_of(name: str, args: tuple) -> int:
    if name.startswith(("_foreach", "_fused_adam")):
        lists = [a for a in args if isinstance(a, (list, tuple)) and len(a) and isinstance(a[0], Tensor)]
        count = foreach_launches(lists[:4])  # AdamW's step counts come along with the others
        return count + int(name == "_foreach_norm")  # partial sums are added up by one more
    return LAUNCHES.get(name, lambda args: 1)(args)


def bytes_of(name: str, args: tuple, out: Any) -> int:
    """Inputs and outputs, each once."""
    tensors = {id(x): x for x in tree_leaves((args, out)) if isinstance(x, Tensor)}
    moved = sum(map(num_bytes, tensors.values()))
    if name.endswith("_") and not name.startswith("_f"):
        moved += num_bytes(args[0])  # read and written
    elif name == "_fused_adamw_":
        moved += sum(num_bytes(x) for i in (0, 2, 3) for x in args[i])  # gradients are only read
    elif name == "_foreach_mul_":
        moved += sum(map(num_bytes, args[0]))
    elif name == "convolution_backward" and args[-1][0] and args[-1][1]:
        moved += num_bytes(args[0])  # by either of the two
    elif name == "ada_group_norm_silu_backward" and not ada_group_norm_silu.whole_groups_fit(args[1], args[2], args[7]):
        moved += sum(num_bytes(x) for x in args[:3] if x is not None)
    elif name.startswith("lstm_unroll"):
        weight, steps = args[0], args[1].size(1)
        moved += (steps - 1) * num_bytes(weight) + 2 * num_bytes(args[1])  # each step's product, written and read
    return moved


def lies_channels_last(x: Tensor) -> bool:
    """As kernels of ours want an image [N,C,H,W]; statistics [N,G,S,3] lie as they are made."""
    return x.is_contiguous() if x.size(-1) == 3 else x.permute(0, 2, 3, 1).is_contiguous()


class CountDevice(TorchDispatchMode):
    """Counts launches and bytes by operation, and inputs of our kernels that would be copied to another layout."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "convolution":  # in the layout that cuDNN gives it
            out = torch.empty_like(out, memory_format=torch.channels_last)
        elif name == "convolution_backward":
            like = (args[1], args[2])
            out = (*(o if o is None else torch.empty_like(x) for o, x in zip(out, like, strict=False)), out[2])
        if func.is_view or name in FREE:
            return out
        self.launches[name] += launches_of(name, args)
        self.bytes[name] += bytes_of(name, args, out)
        if func.namespace == "diamond_fast":
            for x in args:
                if isinstance(x, Tensor) and x.dim() == 4 and not lies_channels_last(x):
                    self.launches["layout copies"] += 1
                    self.bytes["layout copies"] += 2 * num_bytes(x)
        return out


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Inside, meta tensors take the paths that CUDA tensors would."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]

    with ExitStack() as stack:
        for module in list(sys.modules.values()):
            if getattr(module, "use_triton", None) is dispatch.use_triton and module is not dispatch:
                stack.enter_context(patch.object(module, "use_triton", lambda impl, tensor: impl != "torch"))
        stack.enter_context(patch.object(F, "scaled_dot_product_attention", attention))
        for name in ("torch.utils._foreach_utils._get_foreach", "torch.optim.optimizer._get_fused"):
            stack.enter_context(patch(f"{name}_kernels_supported_devices", lambda: ["meta"]))
        yield


class Teacher:
    """Draws with the denoiser as ``FastDenoiser`` does within a graph of someone else's."""

    def __init__(self, denoiser: Denoiser, steps: StepsConfig):
        arguments = denoiser.formulation, denoiser.inner_model, steps, torch.device("meta"), torch.bfloat16
        self.sampler = fast_sampler(*arguments, engine="fused")

    def sample(self, obs: Tensor, act: Tensor, randn: Callable[..., Tensor]) -> tuple[Tensor, list[Tensor]]:
        noise = torch.stack([randn(*obs[:, 0].shape, device=obs.device)])
        trajectory = self.sampler.sample(obs.flatten(1, 2), act, noise)
        return trajectory[-1], trajectory


def make_update(model: str, batch: int = BATCH) -> tuple[Update, tuple[Tensor, ...]]:
    """An update of the paper's run on meta tensors, and its batch."""
    cfg = RunConfig(world_model=WorldModelConfig(student=model == "student"))
    with torch.device("meta"):
        agent = Agent(cfg, NUM_ACTIONS).to(memory_format=torch.channels_last)
    trained = fused(getattr(agent, {"reward_end": "rew_end_model"}.get(model, model)), torch.bfloat16)
    objective: Any
    with torch.device("meta"):
        if model == "actor_critic":
            objective, inputs = (
                ActorCriticObjective(trained, None, cfg.actor_critic_loss, play=len),
                _played(cfg, batch),
            )
        else:
            length = cfg.reward_end_seq_length if model == "reward_end" else cfg.denoiser_seq_length
            frames = torch.empty(batch, length, *cfg.frame_shape, dtype=torch.uint8)
            flags = torch.empty(batch, length, dtype=torch.bool)
            act, rew = torch.empty(batch, length, dtype=torch.int64), torch.empty(batch, length)
            if model == "denoiser":
                objective, inputs = (
                    DenoiserObjective(trained, None, cfg.sigma_distribution, frames_to_float),
                    (frames, flags, act, flags),
                )
            elif model == "student":
                steps = cfg.world_model.sampler
                objective, inputs = (
                    StudentObjective(
                        trained, agent.denoiser, Teacher(agent.denoiser, steps), steps, None, frames_to_float
                    ),
                    (frames, flags, act, flags),
                )
            else:
                objective, inputs = (
                    RewardEndObjective(trained, None, frames_to_float),
                    (frames, flags, act, rew, flags, flags),
                )
    update = Update(
        model,
        getattr(agent, {"reward_end": "rew_end_model"}.get(model, model)),
        objective,
        getattr(cfg, f"{model}_update"),
        nullcontext,
    )
    return update, inputs


def _played(cfg: RunConfig, n: int) -> Played:
    t, d, size = cfg.actor_critic_loss.backup_every, cfg.actor_critic.lstm_dim, cfg.frame_shape
    k = usual_capacity(n, t, cfg.world_model.horizon)
    flags = torch.empty(n, t, dtype=torch.bool)
    return Played(
        obs=torch.empty(n, t, *size).movedim(-1, -3),
        act=torch.empty(n, t, dtype=torch.int64),
        rew=torch.empty(n, t),
        end=flags,
        trunc=flags,
        val_bootstrap=torch.empty(n, t),
        hx=torch.empty(n, d),
        cx=torch.empty(n, d),
        hx_next=torch.empty(n, t, d),
        cx_next=torch.empty(n, t, d),
        burnin_obs=torch.empty(k, BURN_IN, *size).movedim(-1, -3),
        burnin_cell=torch.empty(k, dtype=torch.int64),
        num_burnins=torch.empty((), dtype=torch.int64),
    )


def count(model: str, batch: int = BATCH) -> CountDevice:
    """A later update of the model: the optimiser has its moments."""
    update, inputs = make_update(model, batch)
    with as_on_a_gpu(), CountDevice() as counted:
        for _ in range(2):
            counted.launches.clear()
            counted.bytes.clear()
            update.apply([inputs])
    return counted


def main() -> None:
    for model in MODELS:
        counted = count(model)
        print(f"{model}: {counted.launches.total()} launches, {counted.bytes.total() / 1e9:.1f} GB")
        for name, launches in counted.launches.most_common(25):
            print(f"    {launches:5}  {counted.bytes[name] / 1e9:6.2f} GB  {name}")


if __name__ == "__main__":
    main()
