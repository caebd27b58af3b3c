"""The weights of a denoiser as they are given: found by their names, used where they lie, watched for changes."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from diamond_fast.registry import NETWORKS, load
from diamond_fast.world_model import Denoiser

WRAPPERS = {"module", "_orig_mod"}  # what DistributedDataParallel and torch.compile put into names

Slot = tuple[dict[str, Any], str]  # a module's table of weights or buffers, and the name in it


def find_network(denoiser: nn.Module) -> nn.Module:
    """The network in a denoiser, an agent, or either in a wrapper. Raises ValueError if there is none."""
    for module in denoiser.modules():
        if isinstance(module, Denoiser):
            return module.inner_model
    prefix = _find_prefix(name for name, _ in _slots(denoiser))
    path = prefix.removesuffix(".")
    return [m for name, m in denoiser.named_modules() if _plain(name) == path][-1]


def as_own_network(network: nn.Module, own: bool) -> nn.Module:
    """The network itself if it is one of our own denoiser's, else ours around the very tensors of another."""
    wrapped = any(not WRAPPERS.isdisjoint(name.split(".")) for name, _ in network.named_modules())
    if own and not wrapped:
        return network
    return _network_around(weights_of(network))


def rebuild(state: Mapping[str, Tensor]) -> nn.Module:
    """Our network with copies of weights from a denoiser's or an agent's state dict. Raises TypeError, ValueError."""
    state = {_plain(str(name)): value for name, value in state.items()}
    prefix = _find_prefix(state)
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    strange = [f"{name} is {type(w).__name__}" for name, w in weights.items() if not isinstance(w, Tensor)]
    if strange:
        raise TypeError(f"denoiser: expected tensors for weights, but {strange[0]}")
    device = weights["conv_in.weight"].device
    copies = {name: value.detach().to(device, torch.float32, copy=True) for name, value in weights.items()}
    return _network_around(copies)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Its weights and buffers by name, without the names of wrappers: the tensors themselves."""
    return {name: table[key] for name, (table, key) in _slots(module)}


def bind(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Makes these very tensors the network's weights. Raises RuntimeError if names or shapes differ."""
    network.load_state_dict(weights, assign=True)


class Watch:
    """Notices that a module's weights have changed, without asking the device, in a fraction of a millisecond.

    Tensors count the writes to them, but for those of fused optimisers, which are noticed by their steps. What it
    cannot see: writes to ``weight.data`` in place, and any to inference tensors.
    """

    def __init__(self, module: nn.Module):
        self._slots = [slot for _, slot in _slots(module)]
        self._ids = {id(table[key]) for table, key in self._slots}
        self._stepped = False
        self._versions, self._addresses = self._now()
        _listen()
        _watches.add(self)

    def look(self) -> tuple[bool, bool]:
        """Since the last look: whether weights were written to, and whether they are elsewhere."""
        if _compiled_steps.any:
            _compiled_steps.any = False
            for watch in list(_watches):
                watch._stepped = True
        versions, addresses, stepped = self._versions, self._addresses, self._stepped
        self._stepped = False
        self._versions, self._addresses = self._now()
        return stepped or self._versions != versions, self._addresses != addresses

    def note(self, optimizer: Optimizer) -> None:
        """Called when it has made a step."""
        if any(id(p) in self._ids for group in optimizer.param_groups for p in group["params"]):
            self._stepped = True

    def _now(self) -> tuple[list[int], list[int]]:
        tensors = [table[key] for table, key in self._slots]
        try:
            versions = [x._version for x in tensors]
        except RuntimeError:
            versions = [0 if x.is_inference() else x._version for x in tensors]
        return versions, [x.data_ptr() for x in tensors]


_watches: WeakSet[Watch] = WeakSet()
_compiled_steps = SimpleNamespace(any=False)


@cache
def _listen() -> None:
    register_optimizer_step_post_hook(_note_step)


def _note_step(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    if torch.compiler.is_compiling():
        _compiled_steps.any = True  # all that can be said in compiled code: it may have been anybody's
        return
    for watch in list(_watches):
        watch.note(optimizer)


def _slots(module: nn.Module) -> Iterator[tuple[str, Slot]]:
    """What a state dict would hold, by name: where it is kept."""
    for path, m in module.named_modules():
        for table in (m._parameters, m._buffers):
            for key, tensor in table.items():
                if tensor is not None and key not in m._non_persistent_buffers_set:
                    yield _plain(f"{path}.{key}" if path else key), (table, key)


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _find_prefix(names: Iterable[str]) -> str:
    """What stands before the U-Net's own names; the reward/end model has a ``conv_in`` too, but no noise level."""
    names, noise = set(names), "noise_emb.weight"
    found = {name.removesuffix(noise) for name in names if name == noise or name.endswith(f".{noise}")}
    prefixes = sorted(prefix for prefix in found if f"{prefix}conv_in.weight" in names)
    if len(prefixes) > 1:  # of an agent, the one that neither only enlarges nor is the denoiser's student
        prefixes = [prefix for prefix in prefixes if not {"upsampler", "student"} & set(prefix.split("."))]
    if not prefixes:
        raise ValueError("denoiser: these are not a denoiser's weights (no conv_in.weight); for others use wrap()")
    if len(prefixes) > 1:
        raise ValueError(f"denoiser: expected one, got the weights of several: {', '.join(prefixes)}")
    return prefixes[0]


def _network_around(weights: Mapping[str, Tensor]) -> nn.Module:
    """Our network with these tensors for weights; names and shapes tell its kind and settings."""
    kinds = [load(load(place).model) for place in NETWORKS.values()]
    reasons = []
    for kind in kinds:
        if not hasattr(kind, "like"):
            continue
        try:
            with torch.device("meta"):  # no memory and no random numbers: it is given its weights
                network = kind.like(weights)
            bind(network, weights)
            return network
        except (LookupError, ArithmeticError, RuntimeError, ValueError) as error:
            reasons += str(error).strip().splitlines()[:2]
    raise ValueError(f"denoiser: its weights are not those of this U-Net ({' '.join(reasons)})")
