"""Where runs compute in bfloat16: one answer for training and imagination."""

import pytest
import torch

from diamond_fast.config import RunConfig
from diamond_fast.engine import paths
from diamond_fast.training import precision as precision_module
from diamond_fast.training.precision import autocast, network_dtype

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """Sets what the machine can do; torch.autocast gives its arguments, since here it knows no GPU."""

    def can(capability=(9, 0), amx=False):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(paths.cpu_program, "why_unavailable", lambda: None if amx else "no AMX")
        monkeypatch.setattr(precision_module.torch, "autocast", lambda kind, dtype, enabled: (kind, dtype, enabled))

    return can


@pytest.mark.parametrize(
    ("capability", "precision", "coarse"),
    [
        ((9, 0), "bf16", True),
        ((8, 0), "bf16", True),
        ((7, 5), "bf16", False),  # bfloat16 there is slow, and was taken for training alone
        ((9, 0), "tf32", False),
        ((9, 0), "fp32", False),
    ],
)
def test_on_a_gpu(machine, capability, precision, coarse):
    machine(capability)
    assert network_dtype(precision, CUDA) == (torch.bfloat16 if coarse else torch.float32)
    assert autocast(CUDA, precision) == ("cuda", torch.bfloat16, coarse)


@pytest.mark.parametrize("amx", [True, False])
def test_on_a_cpu_networks_see_to_it_themselves(machine, amx):
    machine(amx=amx)
    precision = RunConfig().precision
    assert network_dtype(precision, CPU) == (torch.bfloat16 if amx else torch.float32)
    assert autocast(CPU, precision) == ("cpu", torch.bfloat16, False)
