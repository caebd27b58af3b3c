"""Builds the compiled parts: the replay buffer, and on x86 the CPU engine. The rest is declared in pyproject.toml."""

import platform
from glob import glob

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup
from setuptools.errors import CompileError
from setuptools.modified import newer_group

# What Python sees of the CPU engine is compiled for any processor, so that it can be imported on any. Its object goes
# first: of an inline function that several objects bring along, the linker keeps the first one's.
CPU_BINDINGS = "csrc/cpu/bindings.cpp"
CPU_KERNELS = sorted(set(glob("csrc/cpu/*.cpp")) - {CPU_BINDINGS})
AMX = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma", "-mamx-tile", "-mamx-bf16"]


class Build(build_ext):
    """Says in one line what is missing if no C++17 compiler is found. Only the replay buffer is indispensable."""

    def build_extensions(self):
        try:
            super().build_extensions()
        except CompileError as error:
            raise SystemExit(
                f"diamond_fast: the C++17 replay buffer did not compile ({error}); "
                "install a compiler (Debian and Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++)"
            ) from error

    def build_extension(self, ext):
        if ext is cpu and (self.force or newer_group([*ext.sources, *ext.depends], self.get_ext_fullpath(ext.name))):
            flags = [*ext.extra_compile_args, *AMX]
            ext.extra_objects = self.compiler.compile(CPU_KERNELS, output_dir=self.build_temp, extra_postargs=flags)
        super().build_extension(ext)


replay = Pybind11Extension(
    "diamond_fast._replay",
    sorted(glob("csrc/*.cpp")),
    depends=sorted(glob("csrc/*.hpp")),
    cxx_std=17,
    extra_compile_args=["-O3"],
)
cpu = Pybind11Extension(
    "diamond_fast._cpu",
    [CPU_BINDINGS],
    depends=[*CPU_KERNELS, *sorted(glob("csrc/cpu/*.hpp")), *sorted(glob("csrc/*.hpp"))],
    cxx_std=17,
    # GCC 12 warns of its own headers for the kernels' instructions
    extra_compile_args=["-O3", "-Wno-maybe-uninitialized", "-Wno-uninitialized"],
    optional=True,
)

setup(
    ext_modules=[replay, cpu] if platform.machine() in ("x86_64", "AMD64") else [replay],
    cmdclass={"build_ext": Build},
)
