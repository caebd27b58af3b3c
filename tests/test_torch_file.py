"""Files of torch.save: plain data comes back; code, bombs and damage do not get in."""

import io
import os
import pickle
import resource
import tarfile
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from diamond_fast.official import NUM_ACTIONS_KEY, load_official
from diamond_fast.replay import load_recording
from diamond_fast.torch_file import load_torch_file


def same(a, b):
    if isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in b)
    if isinstance(b, list | tuple):
        return type(a) is type(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize(
    "value",
    [
        {"weight": torch.randn(3, 4), "count": torch.tensor(3), "nothing": torch.zeros(0)},
        torch.nn.Conv2d(2, 3, 3).state_dict(),
        {
            "view": torch.arange(10)[2:7:2],
            "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
            "transposed": torch.randn(3, 2).T,
        },
        {
            t: torch.ones(2, dtype=getattr(torch, t))
            for t in ("float64", "float16", "bfloat16", "int32", "int16", "bool")
        },
        [1, -(2**40), 1.5, None, True, "name", (1,), (1, 2), {"a": []}],
        {"shared": [torch.ones(2)] * 3},
    ],
)
def test_plain_data_comes_back(tmp_path, value):
    torch.save(value, tmp_path / "x.pt")
    assert same(load_torch_file(tmp_path / "x.pt"), value)
    assert same(load_torch_file(tmp_path / "x.pt"), torch.load(tmp_path / "x.pt", weights_only=True))


# --- code -----------------------------------------------------------------------------------------------------------


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


def malicious(marker):
    """Programs of pickle, most of which would make the file ``marker`` under pickle.loads."""
    import builtins
    import copyreg
    import functools
    import importlib
    import operator
    import pathlib
    import runpy
    import shutil
    import subprocess

    touch = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w')"
    calls = [
        Calls(os.system, touch),
        Calls(os.popen, touch),
        Calls(os.open, str(marker), os.O_CREAT),
        Calls(os.mkdir, str(marker)),
        Calls(subprocess.call, touch.split()),
        Calls(subprocess.Popen, touch.split()),
        Calls(eval, code),
        Calls(exec, code),
        Calls(open, str(marker), "w"),
        Calls(compile, code, "x", "exec"),
        Calls(getattr, dict, "fromkeys"),
        Calls(builtins.__import__, "this"),
        Calls(importlib.import_module, "antigravity"),
        Calls(runpy.run_path, str(marker)),
        Calls(pathlib.Path.touch, pathlib.Path(marker)),
        Calls(shutil.copy, "/etc/hostname", str(marker)),
        Calls(pickle.loads, pickle.dumps(Calls(os.system, touch))),
        Calls(functools.partial, os.system, touch),
        Calls(operator.methodcaller, "system", touch),
        Calls(copyreg._reconstructor, dict, dict, {}),
        Calls(np.load, str(marker), None, True),
        Calls(np.fromstring, "1", float, 1, " "),
        Calls(torch.load, str(marker)),
        Calls(torch.hub.load, "a/b", "c"),
        Calls(torch._utils._rebuild_parameter, torch.ones(1), True, OrderedDict()),
        Calls(torch.jit.load, str(marker)),
        Calls(bytearray, 10**11),
        Calls(OrderedDict, [], state={"__class__": set}),
        Calls(set, [1]),
        OrderedDict,
        os.system,
        b"bytes",
    ]
    programs = [pickle.dumps({NUM_ACTIONS_KEY: call}, protocol) for call in calls[:-3] for protocol in (0, 2, 4, 5)]
    programs += [pickle.dumps(call, 2) for call in calls]
    shell = touch.encode()
    return [
        *programs,
        b"cos\nsystem\n(S'" + shell + b"'\ntR.",
        b"(S'" + shell + b"'\nios\nsystem\n.",
        b"(cos\nsystem\nS'" + shell + b"'\no.",
        b"\x80\x02cos\nsystem\nX" + len(shell).to_bytes(4, "little") + shell + b"\x85R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__code__K\x01sb.",
        b"\x80\x02ccollections\nOrderedDict\n}X\x05\x00\x00\x00clearK\x01sb.",
        b"\x80\x02ctorch\nload\n.",
        b"\x80\x02ctorch.storage\nUntypedStorage\nK\x05\x85R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02\x82\x01.",  # an extension's code
        b"Pos.system\n.",  # persistent ids of other kinds
        b"\x80\x02X\x05\x00\x00\x00helloQ.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a memo of two thousand million entries
        b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"x.",
        b"\x80\x02X\xff\xff\xff\xffx.",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02" + b"]" * 1000 + b"a" * 999 + b".",
        b"",
        b".",
        b"\x80\x02.",
        b"\x80\x02K\x01",
        b"\x80\x09K\x01.",
    ]


def archive(path, program, **entries):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {"data.pkl": program, "version": b"3\n", "byteorder": b"little", **entries}.items():
            file.writestr(f"archive/{name}", content)


def containers(folder, program):
    """Everything torch.load would take the program from."""
    folder.mkdir()
    archive(folder / "archive.pt", program)
    (folder / "bare.pt").write_bytes(program)
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    (folder / "legacy.pt").write_bytes(magic + program + pickle.dumps([], 2))
    with tarfile.open(folder / "tar.pt", "w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(program)
            tar.addfile(info, io.BytesIO(program))
    archive(folder / "script.pt", b"\x80\x02}.", **{"constants.pkl": program, "code/x.py": b"1"})
    return [folder / f"{name}.pt" for name in ("archive", "bare", "legacy", "tar", "script")]


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_no_code_gets_in_and_no_bomb_goes_off(tmp_path):
    marker = tmp_path / "marker"
    before, refused = peak_memory(), 0
    for i, program in enumerate(malicious(marker)):
        for path in containers(tmp_path / str(i), program):
            with pytest.raises(ValueError, match="not a published agent") as caught:
                load_official(path)
            assert "\n" not in str(caught.value)
            refused += 1
        (tmp_path / str(i) / "0").mkdir()
        os.rename(tmp_path / str(i) / "archive.pt", tmp_path / str(i) / "0" / "0.pt")
        with pytest.raises(ValueError, match=r"0\.pt: "):
            load_recording(tmp_path / str(i) / "0")
    assert refused > 700
    assert not marker.exists()
    assert peak_memory() - before < 200e6


# --- bombs ----------------------------------------------------------------------------------------------------------


def saved(path, value):
    torch.save(value, path)
    with zipfile.ZipFile(path) as file:
        return {entry.filename.partition("/")[2]: file.read(entry) for entry in file.infolist()}


def forged(path, old, new):
    """A saved tensor of 3 numbers whose program says something else."""
    entries = saved(path, {"x": torch.zeros(3)})
    program = entries.pop("data.pkl")
    assert program.count(old) == 1
    archive(path, program.replace(old, new), **entries)


HUGE = b"\x8a\x06" + (10**13).to_bytes(6, "little")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"q\x06K\x03t", b"q\x06" + HUGE + b"t"),  # numbers of the storage
        (b"QK\x00K\x03\x85", b"QK\x00" + HUGE + b"\x85"),  # size of the tensor
        (b"QK\x00K\x03\x85", b"QK\x01K\x03\x85"),  # offset
        (b"QK\x00K\x03\x85", b"Q\x8a\x01\xffK\x03\x85"),
        (b"QK\x00K\x03\x85", b"QK\x00\x8a\x01\xff\x85"),
        (b"K\x01\x85q\t\x89", b"K\x02\x85q\t\x89"),  # stride
        (b"K\x01\x85q\t\x89", b"\x8a\x01\xff\x85q\t\x89"),
        (b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x001"),  # the file of its numbers
        (b"FloatStorage", b"DoubleStorage"),
        (b"FloatStorage", b"ComplexFloatStorage"),
    ],
)
def test_a_forged_tensor_is_refused(tmp_path, old, new):
    before = peak_memory()
    path = tmp_path / "x.pt"
    try:
        forged(path, old, new)
    except AssertionError:  # torch writes this program a little differently from version to version
        program = saved(path, {"x": torch.zeros(3)})["data.pkl"]
        pytest.fail(f"{old!r} is not once in {program!r}")
    with pytest.raises(ValueError, match=r"x\.pt: damaged, or not a file of tensors"):
        load_torch_file(path)
    assert peak_memory() - before < 100e6


def test_archives_that_would_unfold_are_refused(tmp_path):
    before = peak_memory()
    with (
        zipfile.ZipFile(tmp_path / "zeros.pt", "w", zipfile.ZIP_DEFLATED) as file,
        file.open("archive/data.pkl", "w", force_zip64=True) as entry,
    ):
        for _ in range(300):
            entry.write(bytes(1 << 20))
    archive(tmp_path / "x.pt", b"\x80\x02}.")
    content = (tmp_path / "x.pt").read_bytes()
    at = content.index(b"PK\x01\x02")  # the directory's entry of data.pkl: sizes at 20 and 24
    for name, start in (("packed", 20), ("size", 24)):
        (tmp_path / f"{name}.pt").write_bytes(content[: at + start] + b"\xf0\xff\xff\x7f" + content[at + start + 4 :])
    with zipfile.ZipFile(tmp_path / "twice.pt", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02}.")
        file.writestr("another/data.pkl", b"\x80\x02}.")
    for name in ("zeros", "packed", "size", "twice"):
        with pytest.raises(ValueError, match=f"{name}.pt: damaged"):
            load_torch_file(tmp_path / f"{name}.pt")
    assert peak_memory() - before < 100e6


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
TENSOR += b"X\x03\x00\x00\x00cpuK\x04tQK\x00K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
NAME = b"X\x01\x00\x00\x00w"
NESTED = b")" + b"q\x00h\x00\x86" * 100  # pairs of pairs of pairs: hashing or writing them out never ends
METADATA = b"X\x09\x00\x00\x00_metadata"


def loads(path, program):
    archive(path, b"\x80\x02" + program + b".", **{"data/0": bytes(16)})
    return load_torch_file(path)


def test_programs_as_torch_writes_them(tmp_path):
    assert same(loads(tmp_path / "x.pt", b"}" + NAME + TENSOR + b"s"), {"w": torch.zeros(4)})
    first, second = loads(tmp_path / "x.pt", b"(" + TENSOR + TENSOR + b"t")
    assert first.data_ptr() == second.data_ptr()  # two views of the same numbers share them
    program = b"ccollections\nOrderedDict\n)R" + NAME + b"K\x01s}" + METADATA + b"}sb"
    assert loads(tmp_path / "x.pt", program) == OrderedDict(w=1)


@pytest.mark.parametrize(
    "program",
    [
        TENSOR + b"}" + METADATA + b"}sb",  # the state of a tensor: torch's own would be called
        TENSOR + b"(K\x00" + b"\x8a\x06" + (10**13).to_bytes(6, "little") + b"\x85K\x01\x85\x89tb",
        b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__)s\x86b",  # of our own function
        b"ccollections\nOrderedDict\n}" + METADATA + b"}sb",  # of the class itself
        b"}}" + METADATA + b"}sb",  # of another dictionary
        b"ccollections\nOrderedDict\n)R}" + NAME + b"}sb",
        b"ccollections\nOrderedDict\n(]tR",
        b"ctorch\nFloatStorage\n)R",
        b"}" + NESTED + b"K\x01s",
        TENSOR.replace(b"X\x01\x00\x00\x000", NESTED),  # as the name of a storage
        TENSOR.replace(b"K\x04\x85K\x01\x85", b"(" + NAME + b"\x8a\x05" + b"\x00" * 4 + b"\x01" + b"tK\x01\x85"),
        TENSOR.replace(b"K\x04\x85K\x01\x85", b"()K\x01\x85\x8a\x05\x00\x00\x00\x00\x01tK\x01\x85"),
        TENSOR.replace(b"K\x04\x85K\x01\x85", b"(" + (b"\x8a\xff" + b"\x7f" * 255) * 5000 + b"tK\x01\x85"),
        b"(" + TENSOR + TENSOR.replace(b"FloatStorage", b"IntStorage") + b"t",  # the same numbers of two kinds
        b"K\x01a",
        b"K\x01K\x01s",
        b"]a",
        b"K\x01K\x02",
        b"t",
        b"R",
        b"\x86",
        b"h\x07",
    ],
)
def test_programs_that_torch_does_not_write_are_refused(tmp_path, program):
    before = peak_memory()
    with pytest.raises(ValueError, match=r"x\.pt: damaged, or not a file of tensors") as caught:
        loads(tmp_path / "x.pt", program)
    assert "\n" not in str(caught.value)
    assert peak_memory() - before < 100e6


def test_a_storage_that_is_asked_for_often_takes_its_memory_once(tmp_path):
    before = peak_memory()
    ask = TENSOR[TENSOR.index(b"((") + 1 : TENSOR.index(b"QK") + 1].replace(b"K\x04", b"J\x00\x00\x04\x00")
    program = b"\x80\x02(" + ask + (ask[:-1] + b"q\x01Q" + b"h\x01Q" * 2000) + b"t."
    archive(tmp_path / "x.pt", program, **{"data/0": bytes(1 << 20)})
    storages = load_torch_file(tmp_path / "x.pt")
    assert len(storages) == 2002
    assert len({storage.data_ptr() for storage in storages}) == 1
    assert peak_memory() - before < 100e6
