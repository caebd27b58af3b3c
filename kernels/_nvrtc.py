"""CUDA C++ that is compiled on the user's machine, by the compiler that comes with torch, and kept in the cache folder.

Without Python's headers or a compiler of the user's own. Only for Linux, as the libraries' names are.
"""

import ctypes
import hashlib
import os
import tempfile
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from diamond_fast.cache import folder

_MAX_DYNAMIC_SHARED_BYTES = 8  # of CUfunction_attribute
_PROGRAMMATIC_STREAM_SERIALIZATION = 6  # of CUlaunchAttributeID


def _nvrtc_files() -> list[str]:
    """Where the compiler may be: known to the loader, or in the packages that torch depends on."""
    major = str(torch.version.cuda).partition(".")[0]
    name = f"libnvrtc.so.{major}"
    spec = find_spec("nvidia")
    places = [Path(p) for p in spec.submodule_search_locations or ()] if spec else []
    inside = [str(p / sub / "lib" / name) for p in places for sub in (f"cu{major}", "cuda_nvrtc")]
    return [*(p for p in inside if Path(p).exists()), name]


@lru_cache
def nvrtc() -> Any:
    """The compiler's library.

    Raises:
        OSError: it is not there.
    """
    *first, last = _nvrtc_files()
    for file in first:
        with suppress(OSError):
            return ctypes.CDLL(file)
    return ctypes.CDLL(last)


def _asked(function: Any, program: ctypes.c_void_p, size_of: Any) -> bytes:
    """What a pair of NVRTC's functions gives: a size, and as many bytes."""
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    found = ctypes.create_string_buffer(size.value)
    function(program, found)
    return found.raw


def compiled(source: str, architecture: str, constants: dict[str, object]) -> bytes:
    """Machine code of a source file's text. Takes seconds, but for what was compiled before on this machine.

    Args:
        architecture: such as ``sm_90a``.
        constants: what the preprocessor is to know.

    Raises:
        OSError: there is no compiler.
        RuntimeError: it does not compile; the message is the compiler's.
    """
    library = nvrtc()
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    options = [f"--gpu-architecture={architecture}", "--std=c++17"]
    options += [f"-D{name}={value}" for name, value in constants.items()]
    what = f"{major.value}.{minor.value}\n{options}\n{source}"
    file = folder() / "cuda" / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.cubin"
    with suppress(OSError):
        if (code := file.read_bytes()).startswith(b"\x7fELF"):  # or the machine went down while it was written
            return code
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    try:
        given = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        if library.nvrtcCompileProgram(program, len(options), given):
            log = _asked(library.nvrtcGetProgramLog, program, library.nvrtcGetProgramLogSize)
            raise RuntimeError(log.rstrip(b"\0").decode(errors="replace").strip())
        code = _asked(library.nvrtcGetCUBIN, program, library.nvrtcGetCUBINSize)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    with suppress(OSError):  # a cache that cannot be written costs time alone
        _keep(file, code)
    return code


def _keep(file: Path, code: bytes) -> None:
    """Writes a file that is there as a whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(handle, "wb") as part:
        part.write(code)
        part.flush()
        os.fsync(part.fileno())
    Path(name).replace(file)


class _LaunchConfig(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        *((name, ctypes.c_uint) for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared")),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("num_attributes", ctypes.c_uint),
    )


class Function:
    """A kernel that is loaded on the current device.

    Args:
        code: what ``compiled`` returns.
        name: the kernel's.
        shared_bytes: memory that its blocks share.

    Raises:
        RuntimeError: the driver does not take it.
    """

    def __init__(self, code: bytes, name: str, shared_bytes: int):
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._shared_bytes = shared_bytes
        self._module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(self._cuda.cuModuleLoadData(ctypes.byref(self._module), code), "loading it")
        function = ctypes.byref(self._function)
        self._check(self._cuda.cuModuleGetFunction(function, self._module, name.encode()), "finding it")
        attribute = self._function, _MAX_DYNAMIC_SHARED_BYTES, shared_bytes
        self._check(self._cuda.cuFuncSetAttribute(*attribute), "asking for shared memory")
        self._early = (ctypes.c_int * 18)(_PROGRAMMATIC_STREAM_SERIALIZATION, 0, 1)  # CUlaunchAttribute: 72 bytes

    def _check(self, code: int, what: str) -> None:
        if code:
            raise RuntimeError(f"CUDA error {code} when {what}")

    def launch(self, grid: tuple[int, int], threads: int, arguments: list[Any], *, early: bool) -> None:
        """On torch's current stream.

        Args:
            arguments: as ctypes has them.
            early: may begin before the kernel in front has ended, for whose end it waits itself.
        """
        stream = torch.cuda.current_stream().cuda_stream
        attributes = ctypes.addressof(self._early)
        config = _LaunchConfig(*grid, 1, threads, 1, 1, self._shared_bytes, stream, attributes, int(early))
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
        self._check(self._cuda.cuLaunchKernelEx(ctypes.byref(config), self._function, pointers, None), "launching it")
