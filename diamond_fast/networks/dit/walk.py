"""The diffusion transformer as a sequence of operations (``networks/memory_walk.py``): a patch is a position."""

from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from diamond_fast.networks.memory import places
from diamond_fast.networks.memory_walk import MemoryBackend, Value

if TYPE_CHECKING:
    from diamond_fast.networks.dit.model import Block, DiT


def recall(backend: MemoryBackend[Value], network: "DiT", x: Value) -> Value:
    """One frame, past or noisy. All that the future looks at is there behind its last look."""
    h, w = backend.size(x)
    width = network.patch_in.out_features

    def of_places() -> Tensor:
        return places(h, w, width, network.patch_in.weight.device).mT.unflatten(1, (h, w))

    x = backend.linear(network.patch_in, x, residual=backend.constant(of_places))
    for block in network.blocks:
        x = _block(backend, cast("Block", block), x, width)
    shift = backend.row(network.modulation_out)
    return backend.linear(network.patch_out, backend.layer_norm(x, shift + width, shift))


def _block(backend: MemoryBackend[Value], block: "Block", x: Value, width: int) -> Value:
    first = backend.row(block.modulation)
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = range(first, first + 6 * width, width)
    qkv = backend.linear(block.qkv_proj, backend.layer_norm(x, scale, shift))
    y = backend.look(qkv, block.num_heads, block.age_emb, own=True)
    x = backend.gated_sum(x, backend.linear(block.out_proj, y), gate)
    up, _, down = cast(list[nn.Linear], list(block.mlp))
    y = backend.gelu(backend.linear(up, backend.layer_norm(x, mlp_scale, mlp_shift)))
    return backend.gated_sum(x, backend.linear(down, y), mlp_gate)
