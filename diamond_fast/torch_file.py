"""Files that ``torch.save`` wrote, read without trusting them.

``torch.load`` notices no flipped bit, and even with ``weights_only`` allocates what a forged file asks for. Here every
byte is held against the archive's checksums, nothing is built but tensors, dicts, lists, tuples, numbers and strings,
and no tensor is larger than the bytes there are for it.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diamond_fast.one_line import one_line

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_MAX_DIMENSIONS = 64  # as torch has it
_INSTRUCTIONS = {
    "proto", "stop", "mark", "none", "true", "false", "binint", "binint1", "binint2", "long1", "binfloat", "binunicode",
    "empty_dictionary", "empty_list", "empty_tuple", "tuple", "tuple1", "tuple2", "tuple3", "append", "appends",
    "setitem", "setitems", "binput", "long_binput", "binget", "long_binget", "global", "reduce", "build", "binpersid",
}  # fmt: skip
_ReadableUnpickler: Any = getattr(pickle, "_Unpickler")  # noqa: B009 (the one in Python, which typeshed leaves out)


def load_torch_file(path: Path) -> Any:
    """What ``torch.save`` was given, on the CPU.

    Raises:
        ValueError: the file is damaged, of another kind, or asks for anything but plain data; one line says why.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Unpickler(_contents(archive, path.stat().st_size)).load()
    except OSError:
        raise
    except Exception as error:  # zipfile, pickle and torch each have errors of their own for malformed bytes
        raise ValueError(f"{path}: damaged, or not a file of tensors ({one_line(error)})") from None


def _contents(archive: zipfile.ZipFile, size_on_disk: int) -> dict[str, bytes]:
    """The archive's files by their path below its one folder, checksums verified."""
    contents: dict[str, bytes] = {}
    left = size_on_disk
    for entry in archive.infolist():
        left -= entry.file_size
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or left < 0:
            raise ValueError("it is compressed, or says that it holds more than its own size")
        _, _, name = entry.filename.partition("/")
        if name in contents:
            raise ValueError(f"{name} is there twice")
        contents[name] = archive.read(entry)  # raises BadZipFile if the CRC-32 differs
    if contents.get("byteorder", b"little") != b"little":
        raise ValueError("its numbers are not little-endian")
    return contents


class _Unpickler(_ReadableUnpickler):
    """Runs ``data.pkl``: those of pickle's instructions that build plain data, and calls of the few names below.

    All other instructions are unknown to it. Memory and time stay in proportion to the file.
    """

    def __init__(self, contents: dict[str, bytes]):
        super().__init__(io.BytesIO(contents["data.pkl"]))
        self._contents = contents
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a class or function that a file names; not even torch's own are called."""
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        raise ValueError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """The numbers of a tensor, in a file of their own."""
        kind, dtype, key, _, numel = pid
        if not isinstance(key, str) or not isinstance(dtype, torch.dtype):
            raise ValueError("numbers without a name or a kind")
        if key not in self._storages:
            content = bytearray(self._contents.pop(f"data/{key}"))
            self._storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        storage = self._storages[key]
        if (kind, dtype, numel) != ("storage", storage.dtype, storage.numel()):
            raise ValueError(f"data/{key} holds {storage.numel()} numbers of another kind, or not as many as it says")
        return storage

    def load_setitem(self) -> None:
        value = self.stack.pop()
        self._set_items([self.stack.pop(), value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        target, keys = self.stack[-1], items[::2]
        if not isinstance(target, dict) or not all(isinstance(key, str | int) for key in keys):
            raise ValueError("names or integers of no dictionary, or other keys")  # hashing some takes for ever
        target.update(zip(keys, items[1::2], strict=True))

    def load_build(self) -> None:
        """``Module.state_dict`` leaves its modules' versions in an attribute, the only state that plain data has."""
        state = self.stack.pop()
        if type(self.stack[-1]) is not OrderedDict or type(state) is not dict or list(state) != ["_metadata"]:
            raise ValueError("it sets the state of an object")

    def load_stop(self) -> None:
        if len(self.stack) != 1 or self.metastack:
            raise ValueError("it does not end with one value")
        super().load_stop()


_Unpickler.dispatch = {
    code: getattr(_Unpickler, load.__name__)
    for code, load in _ReadableUnpickler.dispatch.items()
    if load.__name__.removeprefix("load_") in _INSTRUCTIONS
}


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    numbers = [offset, *size, *stride]
    if len(size) > _MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise ValueError("a tensor whose place is not told by a few natural numbers")
    if math.prod(size) > storage.numel():
        raise ValueError(f"a tensor of {list(size)} in {storage.numel()} numbers")
    return storage.as_strided(size, stride, offset)  # within the storage, or RuntimeError


_STAND_INS = {
    ("collections", "OrderedDict"): lambda: OrderedDict(),  # takes no arguments
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
}
