"""AdamW with decay on weight matrices only, and a linear warm-up (paper, appendix D)."""

from typing import Any

import torch
from torch import Tensor, nn

LSTMS = (nn.LSTM, nn.LSTMCell)
DECAYED = (nn.Linear, nn.Conv2d, *LSTMS)
LR_SCALE = "lr_scale"
"""In a group: its learning rate is so many times the optimiser's."""


def make_optimizer(
    model: nn.Module, lr: float, weight_decay: float, eps: float, lstm_input_lr_scale: float = 1.0
) -> torch.optim.AdamW:
    """AdamW in two groups, as one fused pass over all parameters.

    Weights of linear, convolution and LSTM layers decay; biases, embeddings and norms never do. Parameters are in
    order of their names within a group, as in the published optimiser states. On CUDA the step can be part of a
    graph: its count and the learning rate are tensors on the device.

    Args:
        lstm_input_lr_scale: input weights of LSTMs learn at so much of ``lr``, in a third group; 1: as published.
    """
    decayed: dict[str, nn.Parameter] = {}
    kept: dict[str, nn.Parameter] = {}
    into_lstm: dict[str, nn.Parameter] = {}
    for module_name, module in model.named_modules():
        for name, p in module.named_parameters(module_name, recurse=False):
            own_name = name.rpartition(".")[2]
            if lstm_input_lr_scale != 1 and own_name.startswith("weight_ih") and isinstance(module, LSTMS):
                into_lstm[name] = p
            elif own_name.startswith("weight") and isinstance(module, DECAYED):
                decayed[name] = p
            else:
                kept[name] = p
    device = next(model.parameters()).device
    in_graph = device.type == "cuda"
    groups = [(decayed, weight_decay, 1.0), (kept, 0.0, 1.0)]
    if into_lstm:
        groups.append((into_lstm, weight_decay, lstm_input_lr_scale))
    options = [
        {
            "params": [named[name] for name in sorted(named)],
            "weight_decay": decay,
            "lr": torch.tensor(lr * scale, device=device) if in_graph else lr * scale,
            LR_SCALE: scale,
        }
        for named, decay, scale in groups
    ]
    return torch.optim.AdamW(options, eps=eps, fused=True, capturable=in_graph)


def warmed_up(lr: float, warmup_steps: int, updates_done: int) -> float:
    """The next update's learning rate: rises linearly from 0 over ``warmup_steps`` updates, then stays."""
    return lr * min(1.0, updates_done / max(1, warmup_steps))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets it in every group, times the group's scale; if it is a tensor on the device, without waiting for that."""
    for group in optimizer.param_groups:
        scaled = lr * group.get(LR_SCALE, 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(scaled)
        else:
            group["lr"] = scaled


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Loads moments and step counts. The groups' settings stay: they follow from the run and from this machine.

    The moments take their parameters' memory layout, which a checkpoint does not keep: the fused step walks through
    the memory of both alike.
    """
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, kept in zip(optimizer.param_groups, settings, strict=True):
        group.update(kept)
    for p, state in optimizer.state.items():
        state.update({k: torch.empty_like(p).copy_(v) for k, v in state.items() if v.shape == p.shape and v.ndim})
