"""Nested Python state as named tensors and JSON, and back, bit for bit: no pickle anywhere.

Dicts, lists, tuples, numbers, strings, tensors and numpy arrays: what the ``state_dict`` of an optimiser,
a random generator, a replay buffer or an environment is made of. Tensors and arrays leave for safetensors under
their path in the nest; what JSON cannot say (a tuple, a key that is no string, infinity) becomes an object
with one key that starts with ``$``.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


def flatten(value: Any) -> tuple[dict[str, Tensor], Any]:
    """Take a nest apart.

    Returns:
        The tensors by name (numpy arrays among them, copied), and the rest as a value for strict JSON.

    Raises:
        TypeError: something in the nest has no safe form; the message names where it stands.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _encode(value, "", tensors)


def unflatten(tensors: dict[str, Tensor], tree: Any) -> Any:
    """Put a nest together again from what :func:`flatten` returned.

    Raises:
        ValueError: the tree names a tensor that is not there, or holds a mark this version does not know.
    """
    if isinstance(tree, list):
        return [unflatten(tensors, item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    mark = next(iter(tree), "")
    if not (len(tree) == 1 and mark.startswith("$")):
        return {key: unflatten(tensors, item) for key, item in tree.items()}
    content = tree[mark]
    match mark:
        case "$tensor":
            return _named(tensors, content)
        case "$array":
            return _named(tensors, content).numpy()
        case "$scalar":
            return _named(tensors, content).numpy()[()]
        case "$tuple":
            return tuple(unflatten(tensors, item) for item in content)
        case "$dict":
            return {unflatten(tensors, key): unflatten(tensors, item) for key, item in content}
        case "$float":
            return float(content)
    raise ValueError(f"state: unknown mark {mark!r}; was it written by a newer version?")


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return {"$tensor": _store(value, path, tensors)}
    if isinstance(value, np.ndarray | np.generic):
        try:
            tensor = torch.from_numpy(np.array(value, order="C"))
        except (TypeError, ValueError) as error:  # strings, objects, structures; foreign byte orders
            raise TypeError(f"state {path or '/'}: cannot store a numpy array of {value.dtype}") from error
        return {"$array" if isinstance(value, np.ndarray) else "$scalar": _store(tensor, path, tensors)}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, list):
        return [_encode(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"$tuple": [_encode(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, dict):
        encoded = [(key, _encode(item, f"{path}/{key}", tensors)) for key, item in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return dict(encoded)
        return {"$dict": [[_encode(key, f"{path}/key", tensors), item] for key, item in encoded]}
    raise TypeError(f"state {path or '/'}: cannot store a {type(value).__name__}")


def _store(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    name = path.removeprefix("/") or "value"
    while name in tensors:  # {1: a, "1": b} and {"a/b": x, "a": {"b": y}} spell the same path twice
        name += "'"
    tensors[name] = tensor
    return name


def _named(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"state: tensor {name!r} is missing")
    return tensors[name]
