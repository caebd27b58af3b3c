"""An LSTM of one layer, from operations that any graph can hold."""

from typing import NamedTuple

import torch
from torch import Tensor

from diamond_fast.kernels.dispatch import use_triton
from diamond_fast.kernels.lstm_unroll import lstm_unroll
from diamond_fast.networks.exact import outside_autocast
from diamond_fast.one_line import one_line

_kernel_works = True  # until it fails, for whatever reason: from then on the process does without


class Memory(NamedTuple):
    """The LSTM's state, each [..., D]."""

    hx: Tensor
    cx: Tensor


def unroll(
    weight_hh: Tensor, gates: Tensor, memory: Memory, dead: Tensor | None = None, fresh: Memory | None = None
) -> tuple[Memory, Tensor]:
    """The recurrent half.

    Args:
        weight_hh: [4D,D]. gates: [N,T,4D] from the input, biases included. memory: before the first step, [N,D].
        dead: [N,T] bool, steps behind which the memory becomes that of ``fresh``, [N,T,D].

    Returns:
        the memory behind the last step, and hx of every step [N,T,D] as it was before any reset.
    """
    global _kernel_works
    arguments = (weight_hh, gates, *memory, dead, *(fresh or (None, None)))
    with outside_autocast(gates.device):
        if _kernel_works and use_triton("auto", gates):
            try:
                hx, cx, hidden = lstm_unroll(*arguments)
                return Memory(hx, cx), hidden
            except Exception as error:  # a compiler or a driver can raise anything
                _kernel_works = False
                print(f"LSTM: going on with torch's operations, which are slower ({one_line(error)})", flush=True)
        hx, cx, hidden = lstm_unroll(*arguments, impl="torch")
    return Memory(hx, cx), hidden


def where(condition: Tensor, a: Memory, b: Memory) -> Memory:
    """Row by row: a's if the condition [N] holds, else b's. a, b [N,D]."""
    return Memory(*(torch.where(condition[:, None], x, y) for x, y in zip(a, b, strict=True)))
