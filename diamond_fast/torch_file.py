"""Files that ``torch.save`` wrote, read without trusting them.

``torch.load`` notices no flipped bit, and even with ``weights_only`` allocates what a forged file asks for. Here every
byte is held against the archive's checksums, nothing is built but tensors, dicts, lists, tuples, numbers and strings,
and no tensor is larger than the bytes there are for it.
"""

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
_OPCODES = re.compile(
    r"PROTO|STOP|MARK|NONE|NEWTRUE|NEWFALSE|BININT[12]?|LONG1|BINFLOAT|BINUNICODE|EMPTY_(DICT|LIST|TUPLE)|SETITEMS?"
    r"|APPENDS?|TUPLE[123]?|(LONG_)?BIN(PUT|GET)|GLOBAL|REDUCE|BUILD|BINPERSID"
)


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
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: damaged, or not a file of tensors ({reason[:200]})") from None


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
        contents[name] = archive.read(entry)  # raises BadZipFile where the CRC-32 differs
    if contents.get("byteorder", b"little") != b"little":
        raise ValueError("its numbers are not little-endian")
    return contents


class _Unpickler(pickle.Unpickler):
    """Builds plain data from ``data.pkl``; its classes and functions are the few named here, and not even torch's."""

    def __init__(self, contents: dict[str, bytes]):
        program = contents["data.pkl"]
        for opcode, argument, _ in pickletools.genops(program):
            if not _OPCODES.fullmatch(opcode.name):
                raise ValueError(f"pickle instruction {opcode.name}")
            if opcode.name == "LONG_BINPUT" and argument > len(program):  # would reserve memory up to there
                raise ValueError(f"pickle memo of {argument} entries")
        super().__init__(io.BytesIO(program))
        self._contents = contents

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise ValueError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, numel = pid
        content = self._contents[f"data/{key}"]
        if kind != "storage" or numel * dtype.itemsize != len(content):
            raise ValueError(f"data/{key} has {len(content)} bytes for {numel} numbers")
        return torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    if math.prod(size) > storage.numel():
        raise ValueError(f"a tensor of {list(size)} in {storage.numel()} numbers")
    return storage.as_strided(size, stride, offset)  # within the storage, or RuntimeError
