"""AdamW with decay on weight matrices only, and a linear warm-up (paper, appendix D)."""

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

DECAYED = (nn.Linear, nn.Conv2d, nn.LSTM, nn.LSTMCell)


def make_optimizer(
    model: nn.Module, lr: float, weight_decay: float, eps: float, lr_warmup_steps: int
) -> tuple[torch.optim.AdamW, LambdaLR]:
    """AdamW in two groups, and the schedule to step after each update.

    Weights of linear, convolution and LSTM layers decay; biases, embeddings and norms never do. Parameters are in
    order of their names within a group, as in the published optimiser states. The learning rate rises linearly from
    0 over ``lr_warmup_steps`` updates.
    """
    decayed, kept = {}, {}
    for module_name, module in model.named_modules():
        for name, p in module.named_parameters(module_name, recurse=False):
            is_weight = name.rpartition(".")[2].startswith("weight")
            (decayed if is_weight and isinstance(module, DECAYED) else kept)[name] = p
    groups = [
        {"params": [decayed[name] for name in sorted(decayed)], "weight_decay": weight_decay},
        {"params": [kept[name] for name in sorted(kept)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, eps=eps)
    return optimizer, LambdaLR(optimizer, lambda step: min(1.0, step / max(1, lr_warmup_steps)))
