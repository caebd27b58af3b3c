"""Compiles Triton kernels for GPUs that are not here, and says what the machine code looks like.

In a process of its own: where kernels are interpreted (TRITON_INTERPRET=1), nothing can be compiled.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ARCHITECTURES = (80, 86, 89, 90, 100, 120)


@dataclass(frozen=True)
class MachineCode:
    arch: int
    registers: int
    """Per thread."""
    stack_bytes: int
    """Per thread; above 0 where registers spill."""
    sass: str
    """Disassembly."""

    def count(self, instruction: str) -> int:
        return len(re.findall(rf"\b{re.escape(instruction)}\b", self.sass))


def compile_ahead(
    module: str,
    kernel: str,
    signature: dict[str, str],
    constants: dict[str, object],
    divisible_by_16: tuple[str, ...],
    num_warps: int,
) -> list[MachineCode]:
    """Returns the kernel's machine code for every architecture.

    Args:
        module, kernel: where the raw `@triton.jit` function is.
        signature: type of every argument in order, "constexpr" for those in constants.
        constants: values of the constexpr arguments.
        divisible_by_16: arguments that are multiples of 16, as the launcher would find (pointers are aligned).
    """
    request = json.dumps([module, kernel, signature, constants, divisible_by_16, num_warps])
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, __file__, request], capture_output=True, text=True, env=environment, timeout=250
    )
    assert done.returncode == 0, done.stderr
    return [MachineCode(**fields) for fields in json.loads(done.stdout.splitlines()[-1])]


def _compile(module, kernel, signature, constants, divisible_by_16, num_warps) -> list[dict]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(import_module(module), kernel)
    names = list(signature)
    source = ASTSource(
        function,
        signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in divisible_by_16},
    )
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    results = []
    for arch in ARCHITECTURES:
        compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": num_warps})
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            cubin.write(compiled.asm["cubin"])
            cubin.flush()
            usage = subprocess.run(
                [tools / "cuobjdump", "--dump-resource-usage", cubin.name], capture_output=True, text=True, check=True
            ).stdout
            sass = subprocess.run([tools / "nvdisasm", cubin.name], capture_output=True, text=True, check=True).stdout
        registers, stack = (int(re.search(rf"\b{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
        results.append({"arch": arch, "registers": registers, "stack_bytes": stack, "sass": sass})
    return results


if __name__ == "__main__":
    print(json.dumps(_compile(*json.loads(sys.argv[1]))))
