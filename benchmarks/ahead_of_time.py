"""Compiles what the operations would launch on a given chip, without one: resources and machine code of each kernel.

The operations run on CPU tensors with their kernels replaced by recorders, so that what is compiled is what would be
launched, specialisation on divisible sizes and missing arguments included. No memory but what torch itself touches.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from diamond_fast.kernels import dispatch, launch
from diamond_fast.kernels._triton import INTERPRETED, triton

CHIPS = {  # by capability: a chip's multiprocessors, and the shared memory a program may have, in bytes
    80: (108, 166_912),  # A100
    86: (82, 101_376),  # RTX 3090
    89: (128, 101_376),  # RTX 4090
    90: (132, 232_448),  # H100
    100: (148, 232_448),  # B200
    120: (170, 101_376),  # RTX 5090
}

_TYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.uint8: "u8",
    torch.int64: "i64",
}


@dataclass(frozen=True)
class Launch:
    """A kernel with what Triton specialises it on."""

    kernel: "triton.JITFunction"
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, object], ...]
    divisible_by_16: tuple[str, ...]
    options: tuple[tuple[str, object], ...]  # num_warps and other compiler options


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes, and the machine instructions it is made of."""

    registers: int
    spill_bytes: int
    shared_bytes: int
    instructions: tuple[str, ...]  # opcode with its modifiers, e.g. LDG.E.128.CONSTANT


class _Recorder:
    def __init__(self, kernel: "triton.JITFunction", launches: list[Launch]):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        if not all(0 < size < 2**31 for size in grid):
            raise ValueError(f"{self.kernel.__name__}: grid {grid} cannot be launched")
        return self._record

    def _record(self, *args: object, **keywords: object) -> None:
        constants = {name: value for name, value in keywords.items() if name in self.kernel.arg_names}
        options = {name: value for name, value in keywords.items() if name not in constants}
        signature, specialised, divisible = {}, {}, []
        for name, value in zip(self.kernel.arg_names, (*args, *constants.values()), strict=True):
            if name in constants or value is None or (type(value) is int and value == 1):
                signature[name], specialised[name] = "constexpr", constants.get(name, value)
            elif isinstance(value, torch.Tensor):
                signature[name] = "*" + _TYPES[value.dtype]
                if value.storage_offset() * value.element_size() % 16 == 0:
                    divisible.append(name)
            elif isinstance(value, float):
                signature[name] = "fp32"
            else:
                signature[name] = "i32" if value < 2**31 else "i64"
                if value % 16 == 0:
                    divisible.append(name)
        if list(constants) != self.kernel.arg_names[len(args) :]:
            raise ValueError(f"{self.kernel.__name__}: constants out of order: {list(constants)}")
        parts = (signature.items(), specialised.items(), divisible, options.items())
        self.launches.append(Launch(self.kernel, *map(tuple, parts)))


@contextmanager
def recorded_launches(capability: int) -> Iterator[list[Launch]]:
    """Within, kernels are recorded instead of launched, with the launch parameters of a chip of that capability.

    Raises:
        RuntimeError: Triton runs as an interpreter in this process and cannot compile.
    """
    if INTERPRETED:
        raise RuntimeError("TRITON_INTERPRET is set: kernels cannot be compiled in this process")
    launches: list[Launch] = []
    replaced = [
        (module, name, kernel)
        for module_name, module in list(sys.modules.items())
        if module_name.startswith("diamond_fast.kernels.")
        for name, kernel in vars(module).items()
        if isinstance(kernel, triton.JITFunction) and name.endswith("_kernel")
    ]
    chip_of = launch.chip_of
    dispatch.INTERPRETED = True  # lets CPU tensors through to the recorders
    launch.chip_of = lambda device: launch.Chip(capability, CHIPS[capability][0])
    for module, name, kernel in replaced:
        setattr(module, name, _Recorder(kernel, launches))
    try:
        yield launches
    finally:
        launch.chip_of = chip_of
        dispatch.INTERPRETED = False
        for module, name, kernel in replaced:
            setattr(module, name, kernel)


def compile_launch(found: Launch, capability: int) -> Resources:
    """Compiles a recorded launch to machine code of that capability."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    positions = {name: (i,) for i, name in enumerate(found.kernel.arg_names)}
    source = ASTSource(
        fn=found.kernel,
        signature=dict(found.signature),
        constexprs={positions[name]: value for name, value in found.constants},
        attrs={positions[name]: [["tt.divisibility", 16]] for name in found.divisible_by_16},
    )
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options=dict(found.options))
    usage = _cuobjdump(compiled.asm["cubin"], "--dump-resource-usage")
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL"))
    code = _cuobjdump(compiled.asm["cubin"], "--dump-sass")
    opcodes = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", code, re.MULTILINE)
    return Resources(registers, stack + local, compiled.metadata.shared, tuple(opcodes))


def _cuobjdump(cubin: bytes, option: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        tools = _nvidia_tools()
        command = [tools / "cuobjdump", option, path]
        return subprocess.run(command, env={"PATH": str(tools)}, capture_output=True, text=True, check=True).stdout


@lru_cache
def _nvidia_tools() -> Path:
    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
