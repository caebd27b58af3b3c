"""Files that ``torch.save`` wrote, read without trusting them.

``torch.load`` notices no flipped bit, and even with ``weights_only`` allocates what a forged file asks for. Here every
byte is held against the archive's checksums, nothing is built but tensors, dicts, lists, tuples, numbers and strings,
and no tensor is larger than the bytes there are for it.
"""

import math
import pickletools
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


def load_torch_file(path: Path) -> Any:
    """What ``torch.save`` was given, on the CPU.

    Raises:
        ValueError: the file is damaged, of another kind, or asks for anything but plain data; one line says why.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Machine(_contents(archive, path.stat().st_size)).run()
    except OSError:
        raise
    except Exception as error:  # zipfile, pickletools and torch each have errors of their own for malformed bytes
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


class _Machine:
    """Runs ``data.pkl``: those of pickle's instructions that build plain data, and calls of the few names below.

    pickle's own machine would do more: its BUILD sets the state of anything that is there, tensors and functions too.
    Here memory and time stay in proportion to the file.
    """

    def __init__(self, contents: dict[str, bytes]):
        self._program = contents["data.pkl"]
        self._contents = contents
        self._storages: dict[str, Tensor] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        stack = self._stack
        argument: Any  # of the type that belongs to the instruction
        for opcode, argument, _ in pickletools.genops(self._program):
            match opcode.name:
                case "PROTO" if argument == 2:
                    pass
                case "STOP":
                    [result] = stack
                    return result
                case "MARK":
                    self._marks.append(len(stack))
                case "NONE" | "NEWTRUE" | "NEWFALSE":
                    stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                    stack.append(argument)
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_TUPLE":
                    stack.append(())
                case "TUPLE":
                    stack.append(tuple(self._since_mark()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    stack.append(tuple(self._pop(int(opcode.name[-1]))))
                case "APPEND":
                    self._extend(self._pop(1))
                case "APPENDS":
                    self._extend(self._since_mark())
                case "SETITEM":
                    self._set_items(self._pop(2))
                case "SETITEMS":
                    self._set_items(self._since_mark())
                case "BINPUT" | "LONG_BINPUT":
                    self._memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(self._memo[argument])
                case "GLOBAL":
                    stack.append(_named(argument))
                case "REDUCE":
                    stack.append(_called(*self._pop(2)))
                case "BUILD":
                    self._ignore_metadata()
                case "BINPERSID":
                    stack.append(self._storage(*stack.pop()))
                case name:
                    raise ValueError(f"pickle instruction {name} {argument}")
        raise AssertionError("genops ends with STOP, or raises")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("an instruction lacks its operands")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _since_mark(self) -> list[Any]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise ValueError("items for what is no list")
        self._stack[-1].extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target, keys = self._stack[-1], items[::2]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("items for what is no dictionary")
        if not all(isinstance(key, str | int) for key in keys):  # hashing nested tuples may take for ever
            raise ValueError("a dictionary whose keys are not names or integers")
        target.update(zip(keys, items[1::2], strict=True))

    def _ignore_metadata(self) -> None:
        """``Module.state_dict`` leaves its modules' versions in an attribute, the only state that plain data has."""
        state = self._stack.pop()
        if type(self._stack[-1]) is not OrderedDict or type(state) is not dict or list(state) != ["_metadata"]:
            raise ValueError("it sets the state of an object")

    def _storage(self, kind: str, dtype: torch.dtype, key: str, _: Any, numel: int) -> Tensor:
        if not isinstance(key, str) or not isinstance(dtype, torch.dtype):
            raise ValueError("numbers without a name or a kind")
        if key not in self._storages:
            content = bytearray(self._contents.pop(f"data/{key}"))
            self._storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        storage = self._storages[key]
        if (kind, dtype, numel) != ("storage", storage.dtype, storage.numel()):
            raise ValueError(f"data/{key} holds {storage.numel()} numbers of another kind, or not as many as it says")
        return storage


def _named(name: str) -> Any:
    """What stands for a class or function that a file names; not even torch's own are called."""
    module, _, attribute = name.partition(" ")
    if name == "collections OrderedDict":
        return OrderedDict
    if name == "torch._utils _rebuild_tensor_v2":
        return _tensor
    if module == "torch" and attribute in _DTYPES:
        return _DTYPES[attribute]
    raise ValueError(f"it asks for {module}.{attribute}")


def _called(function: Any, arguments: tuple[Any, ...]) -> Any:
    if function is OrderedDict and arguments == ():
        return OrderedDict()
    if function is _tensor:
        return _tensor(*arguments)
    raise ValueError("it calls something else than a tensor's making")


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    numbers = [offset, *size, *stride]
    if len(size) > _MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise ValueError("a tensor whose place is not told by a few natural numbers")
    if math.prod(size) > storage.numel():
        raise ValueError(f"a tensor of {list(size)} in {storage.numel()} numbers")
    return storage.as_strided(size, stride, offset)  # within the storage, or RuntimeError
