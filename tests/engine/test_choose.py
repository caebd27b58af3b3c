"""One place chooses the path: engine, arithmetic and graphs for every device, precision and wish; one line says why."""

import pytest
import torch

from diamond_fast.config import RunConfig
from diamond_fast.engine import choose
from diamond_fast.engine.choose import choose_path

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """Sets what the machine can do; torch.autocast gives its arguments, since here it knows no GPU."""

    def can(capability=(9, 0), amx=False):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(choose.cpu_program, "why_unavailable", lambda: None if amx else "no AMX")
        monkeypatch.setattr(choose.torch, "autocast", lambda kind, dtype, enabled: (kind, dtype, enabled))

    return can


@pytest.mark.parametrize(
    ("capability", "precision", "coarse", "why"),
    [
        ((9, 0), "bf16", True, "the GPU has tensor cores for it"),
        ((8, 0), "bf16", True, "the GPU has tensor cores for it"),
        ((7, 5), "bf16", False, "the GPU is not made for bfloat16"),  # slow there
        ((9, 0), "tf32", False, "precision tf32"),
        ((9, 0), "fp32", False, "precision fp32"),
    ],
)
@pytest.mark.parametrize("graphs", [True, False])
def test_on_a_gpu(machine, capability, precision, coarse, why, graphs):
    machine(capability)
    path = choose_path(CUDA, precision, graphs=graphs)
    dtype = "bfloat16" if coarse else "float32"
    assert (path.dtype, path.engine, path.graphs) == (getattr(torch, dtype), "fused", graphs)
    assert path.autocast() == ("cuda", torch.bfloat16, coarse)
    assert str(path) == f"Path: fused kernels in {dtype}{', CUDA graphs' if graphs else ''} ({why})"


@pytest.mark.parametrize("amx", [True, False])
def test_on_a_cpu_networks_see_to_their_arithmetic_themselves(machine, amx):
    machine(amx=amx)
    path = choose_path(CPU, RunConfig().precision)
    assert path.dtype == (torch.bfloat16 if amx else torch.float32)
    assert (path.engine, path.graphs) == ("amx" if amx else "readable", False)
    assert path.autocast() == ("cpu", torch.bfloat16, False)
    engine = "AMX programs in bfloat16 (the processor has AMX)" if amx else "readable networks in float32 (no AMX)"
    assert str(path) == f"Path: {engine}"
    assert choose_path(CPU, "tf32").engine == "readable"


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_the_readable_path_is_one_setting(machine, device):
    machine(amx=True)
    path = choose_path(device, "bf16", "readable")
    assert (path.dtype, path.engine, path.graphs) == (torch.float32, "readable", False)
    assert path.autocast() == (device.type, torch.bfloat16, False)
    assert str(path) == "Path: readable networks in float32 (asked for)"
