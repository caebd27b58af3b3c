"""Builds the compiled parts: the replay buffer and the CPU engine. The rest is declared in pyproject.toml."""

import os
import platform
import subprocess
from glob import glob

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import Extension, setup
from setuptools.errors import CompileError

AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"]
# The engine once for every instruction set that a processor of this machine's kind may have. Each is a shared library
# of its own: within one, of an inline function that several objects bring along, the linker keeps any one's.
INSTRUCTION_SETS = {
    "x86_64": {
        "portable": [],
        "avx2": ["-mavx2", "-mfma"],
        "avx512": AVX512,
        "amx": [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
    },
    "arm64": {"portable": [], "neon": []},
}
LIBRARY = "diamond_fast._cpu_"
MACHINE = {"AMD64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
SETS = INSTRUCTION_SETS.get(MACHINE, {"portable": []})


def knows(compiler: list[str], flags: list[str]) -> bool:
    """Whether a compiler takes these flags; True if it is of another kind, which the build itself will show."""
    command = [*compiler, *flags, "-fsyntax-only", "-x", "c++", os.devnull]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return True


class Build(build_ext):
    """Says in one line what is missing: a C++17 compiler, or instruction sets that it does not know.

    Only the replay buffer is indispensable.
    """

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or 2

    def build_extensions(self):
        compiler = getattr(self.compiler, "compiler_so_cxx", getattr(self.compiler, "compiler_so", []))
        for extension in [e for e in self.extensions if e.name.startswith(LIBRARY)]:
            name = extension.name.removeprefix(LIBRARY)
            if compiler and knows(compiler, []) and not knows(compiler, SETS[name]):
                self.extensions.remove(extension)
                print(
                    f"diamond_fast: no CPU engine for {name}: {compiler[0]} does not know its flags; another one runs"
                )
        try:
            super().build_extensions()
        except CompileError as error:
            raise SystemExit(
                f"diamond_fast: the C++17 replay buffer did not compile ({error}); "
                "install a compiler (Debian and Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++)"
            ) from error


replay = Pybind11Extension(
    "diamond_fast._replay",
    sorted(glob("csrc/*.cpp")),
    depends=sorted(glob("csrc/*.hpp")),
    cxx_std=17,
    extra_compile_args=["-O3"],
)
cpu = Pybind11Extension(
    "diamond_fast._cpu",
    ["csrc/cpu/bindings.cpp"],
    depends=["csrc/cpu/interface.hpp", "csrc/cpu/instruction_sets.hpp"],
    cxx_std=17,
    extra_compile_args=["-O3"],
    libraries=["dl"],
    optional=True,
)
# GCC 12 warns of its own headers for AVX-512.
quiet = ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]
libraries = [
    Extension(
        LIBRARY + name,
        [f"csrc/cpu/set_{name}.cpp"],
        depends=[*glob("csrc/cpu/**/*.?pp", recursive=True), *glob("csrc/*.hpp")],
        extra_compile_args=["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", *quiet, *flags],
        extra_link_args=["-pthread"],
        optional=True,
    )
    for name, flags in SETS.items()
]

setup(ext_modules=[replay, cpu, *libraries], cmdclass={"build_ext": Build})
