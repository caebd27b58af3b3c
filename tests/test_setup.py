"""What the build says of compilers that lack something."""

import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import setuptools

SETUP = Path(__file__).parents[1] / "setup.py"
COMPILER = shutil.which("g++") or shutil.which("clang++")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


@pytest.fixture
def namespace(monkeypatch):
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: None)
    monkeypatch.chdir(SETUP.parent)
    return runpy.run_path(str(SETUP))


@pytest.fixture
def without_amx(tmp_path):
    """A compiler as old as those that do not know AMX."""
    old = tmp_path / "old-g++"
    old.write_text(f"""#!{sys.executable}
import os, sys
if any("amx" in word for word in sys.argv):
    sys.exit("unrecognized command-line option")
os.execv({COMPILER!r}, [{COMPILER!r}, *sys.argv[1:]])
""")
    old.chmod(0o755)
    return str(old)


def test_a_set_that_the_compiler_does_not_know_is_one_line(namespace, without_amx, monkeypatch, capfd):
    """And all others are built."""
    if namespace["MACHINE"] != "x86_64":
        pytest.skip("AMX is of x86-64")
    built = []
    monkeypatch.setattr(namespace["build_ext"], "build_extensions", lambda self: built.extend(self.extensions))
    build = namespace["Build"].__new__(namespace["Build"])
    build.compiler = SimpleNamespace(compiler_so=[without_amx])
    build.extensions = [namespace["replay"], namespace["cpu"], *namespace["libraries"]]
    build.build_extensions()
    built = {extension.name.removeprefix("diamond_fast.") for extension in built}
    assert built == {"_replay", "_cpu", "_cpu_portable", "_cpu_avx2", "_cpu_avx512"}
    said = capfd.readouterr()
    assert said.out == f"diamond_fast: no CPU engine for amx: {without_amx} does not know its flags; another one runs\n"
    assert said.err == ""


def test_a_compiler_that_is_not_there_is_left_to_the_build(namespace):
    assert namespace["knows"](["no-such-compiler"], ["-mavx2"])
    assert namespace["knows"]([COMPILER], [])
    assert not namespace["knows"]([COMPILER], ["-mno-such-instructions"])
