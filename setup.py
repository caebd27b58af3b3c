"""Builds the one compiled part, the replay buffer. Everything else is declared in pyproject.toml."""

from glob import glob

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup
from setuptools.errors import CompileError


class BuildReplay(build_ext):
    """Says in one line what is missing where no C++17 compiler is found."""

    def build_extensions(self):
        try:
            super().build_extensions()
        except CompileError as error:
            raise SystemExit(
                f"diamond_fast: the C++17 replay buffer did not compile ({error}); "
                "install a compiler (Debian and Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++)"
            ) from error


setup(
    ext_modules=[
        Pybind11Extension(
            "diamond_fast._replay",
            sorted(glob("csrc/*.cpp")),
            depends=sorted(glob("csrc/*.hpp")),
            cxx_std=17,
            extra_compile_args=["-O3"],
        )
    ],
    cmdclass={"build_ext": BuildReplay},
)
