"""Builds the compiled parts: the replay buffer, and on x86 the CPU engine. The rest is declared in pyproject.toml."""

import platform
from glob import glob

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup
from setuptools.errors import CompileError

# The CPU engine is asked whether the processor can run it before it is imported (engine/cpu_program.py).
AMX = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma", "-mamx-tile", "-mamx-bf16"]


class Build(build_ext):
    """Says in one line what is missing where no C++17 compiler is found. Only the replay buffer is indispensable."""

    def build_extensions(self):
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
    sorted(glob("csrc/cpu/*.cpp")),
    depends=sorted(glob("csrc/cpu/*.hpp")),
    cxx_std=17,
    # GCC 12 warns of its own headers for these instructions
    extra_compile_args=["-O3", *AMX, "-Wno-maybe-uninitialized", "-Wno-uninitialized"],
    optional=True,
)

setup(
    ext_modules=[replay, cpu] if platform.machine() in ("x86_64", "AMD64") else [replay],
    cmdclass={"build_ext": Build},
)
