"""One place chooses the path: engine, arithmetic and graphs for every device, precision and wish; one line says why."""

import os
from dataclasses import replace

import pytest
import torch
from small_world import SMALL_WORLD, make_agent

from diamond_fast import FastDenoiser
from diamond_fast.cache import CACHE
from diamond_fast.config import RunConfig
from diamond_fast.engine import choose
from diamond_fast.engine.choose import candidates, choose_path
from diamond_fast.engine.contest import Row, Work
from diamond_fast.engine.path import Path

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """Sets what the machine can do; torch.autocast gives its arguments, since here it knows no GPU."""

    def can(capability=(9, 0), amx=False, compiled_for=None):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(choose.cpu_program, "why_unavailable", lambda *_: None if amx else "no AMX")
        monkeypatch.setattr(choose.cpu_program, "instruction_set", lambda dtype: compiled_for)
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
    convolutions = "hopper convolutions" if capability == (9, 0) else "convolutions"
    kernels = f"fused kernels ({convolutions})" if coarse else "fused kernels"
    assert str(path) == f"Path: {kernels} in {dtype}{', CUDA graphs' if graphs else ''} ({why})"


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


def names(*args, **more):
    return [path.name for path in candidates(*args, **more)]


def test_candidates_by_device_and_precision(machine):
    machine()
    further = ["fused convolutions", "fused", "torch", "torch float32", "readable"]
    assert names(CUDA) == ["fused hopper convolutions", *further]
    assert names(CUDA, "tf32") == ["fused", "fused convolutions", "torch", "readable"]
    assert names(CPU) == ["torch", "readable"]
    assert [path.graphs for path in candidates(CUDA, graphs=False)] == [False] * 6
    torch_alone = candidates(CUDA)[3].techniques
    by_triton = (
        "fused_norms",
        "fused_epilogues",
        "fused_edm",
        "fused_frames",
        "fused_memory",
        "fused_convs",
        "hopper_convs",
    )
    assert not any(getattr(torch_alone, name) for name in by_triton)
    machine((8, 9))
    assert names(CUDA) == further
    machine((7, 5))
    assert [path.dtype for path in candidates(CUDA)] == [torch.float32] * 3
    for precision in ("bf16", "fp32", torch.bfloat16):
        assert "fused convolutions" not in names(CUDA, precision)  # compiled for it, they spill thousands of bytes
    machine(amx=True)
    assert names(CPU) == ["amx", "torch", "readable"]
    assert names(CPU, "tf32") == ["torch", "readable"]
    assert names(CPU, torch.bfloat16)[0] == "amx"
    machine(compiled_for="avx2")
    assert names(CPU) == names(CPU, "fp32") == ["program avx2", "torch", "readable"]
    assert str(choose_path(CPU)) == "Path: compiled programs (avx2) in float32 (expected to be the fastest here)"
    assert "program avx2" not in names(CUDA)
    machine(amx=True, compiled_for="avx512")
    assert names(CPU) == ["amx", "torch", "readable"]
    assert names(CPU, "fp32") == ["program avx512", "torch", "readable"]


def test_a_network_without_a_walk_is_run_as_it_is(machine, work):
    machine()
    bare = replace(work, network=torch.nn.Linear(1, 1))
    assert names(CUDA, work=bare) == ["fused", "torch float32", "readable"]
    assert names(CPU, work=bare) == ["readable"]
    machine(amx=True)
    assert names(CPU, work=bare) == ["amx", "readable"]


def test_an_engine_can_be_asked_for(machine):
    machine()
    assert choose_path(CUDA, choice="torch").name == "torch"
    assert choose_path(CPU, choice="torch").engine == "torch"
    assert choose_path(CUDA, choice="fused").why == "asked for"
    with pytest.raises(ValueError, match=r"^--engine amx: there is none on cpu \(no AMX\); it has torch, readable$"):
        choose_path(CPU, choice="amx")
    with pytest.raises(ValueError, match=r"^--engine amx: there is none on cuda; it has fused, torch, readable$"):
        choose_path(CUDA, choice="amx")
    machine(amx=True, compiled_for="avx512")
    asked = choose_path(CPU, choice="program")
    assert (asked.name, asked.dtype) == ("program avx512", torch.float32)
    with pytest.raises(ValueError, match=r"^--engine program: there is none on cpu; it has amx, torch, readable$"):
        choose_path(CPU, torch.bfloat16, choice="program")


@pytest.fixture
def work():
    return replace(Work.of(make_agent().denoiser, SMALL_WORLD.world_model.sampler, 4), alone=True)


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Measuring gives these rows; returns how often it was done."""
    monkeypatch.setenv(choose.MEASURE, "1")
    monkeypatch.setenv(CACHE, str(tmp_path))
    calls = []

    def gives(*rows):
        def contest(work, paths, begins):
            calls.append([path.name for path in paths])
            for path in paths:
                begins(path.name)
            if isinstance(rows[0], Exception):
                raise rows[0]
            return list(rows)

        monkeypatch.setattr(choose, "contest", contest)
        return calls

    return gives


READABLE = Row("readable", 0.0, 0.5)


def test_the_fastest_is_taken_and_kept_for_the_next_time(machine, measured, work, capsys):
    machine()
    calls = measured(Row("torch", 1e-6, 0.25), READABLE)
    path = choose_path(CPU, work=work)
    assert str(path) == (
        "Path: torch's operations, channels last, in float32 (2.00 times as fast as readable, measured just now)"
    )
    assert capsys.readouterr().err == ("Measuring which engine is fastest for 4 frames of 8x8 on cpu: torch readable\n")
    assert choose_path(CPU, work=work).why == "2.00 times as fast as readable, measured before"
    assert calls == [["torch", "readable"]]
    choose_path(CPU, work=replace(work, frames=(5, 3, 8, 8)))
    assert len(calls) == 2
    assert capsys.readouterr().out == ""


def test_what_is_left_out_has_a_line(machine, measured, work, capsys):
    machine()
    measured(Row("torch", None, None, "it fails: no"), READABLE)
    assert choose_path(CPU, work=work).engine == "readable"
    line = "Left out: torch, it fails: no; what it would have gained over readable is not known\n"
    assert capsys.readouterr().err.endswith(line)


@pytest.mark.parametrize("failure", ["it fails: CUDA out of memory. Tried to allocate", "no answer within 180 s"])
def test_what_others_may_have_caused_is_not_kept(machine, measured, work, failure):
    machine()
    calls = measured(Row("torch", None, None, failure), READABLE)
    for _ in range(2):
        assert choose_path(CPU, work=work).why.endswith("measured just now")
    assert len(calls) == 2


def test_nothing_that_fails_ends_anything(machine, measured, work, capsys):
    machine()
    measured(RuntimeError("no\nluck"))
    path = choose_path(CPU, work=work)
    assert (path.engine, path.why) == ("torch", "no AMX")  # the one expected to be fastest
    assert "Not measured which engine is fastest: no luck\n" in capsys.readouterr().err


def test_an_engine_that_is_asked_for_and_does_not_agree_is_not_taken(machine, measured, work, monkeypatch):
    """Two of an engine are measured against each other; if none may be taken, the readable networks are."""
    machine()
    monkeypatch.setattr(choose.torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(choose.decisions, "conditions", lambda work, paths: {})
    measured(Row("torch", 0.1, 0.1, "it differs"), Row("torch float32", 0.1, 0.1, "it differs"))
    monkeypatch.setattr(choose, "contest_in_child", choose.contest)
    path = choose_path(CUDA, choice="torch", work=replace(work, device=CUDA))
    assert (path.engine, path.why) == ("readable", "no other one agrees with them")


def test_nothing_is_measured_without_a_choice_a_wish_or_while_a_graph_is_captured(machine, measured, work, monkeypatch):
    machine()
    calls = measured(Row("torch", 1e-6, 0.25), READABLE)
    assert choose_path(CPU, choice="torch", work=work).why == "asked for"
    assert choose_path(CPU).engine == "readable"
    assert choose_path(CPU, work=replace(work, alone=False)).engine == "readable"  # in a run there is one candidate
    monkeypatch.setattr(choose.torch.cuda, "is_current_stream_capturing", lambda: True)
    assert choose_path(CUDA, work=work).engine == "fused"
    monkeypatch.setenv(choose.MEASURE, "0")
    assert choose_path(CPU, work=work).engine == "torch"
    assert calls == []
    assert os.listdir(os.environ[CACHE]) == []


def test_a_run_goes_on_as_it_began(machine, measured, work):
    machine(amx=True)
    calls = measured(Row("amx", 1e-6, 0.25), READABLE)
    in_run = replace(work, alone=False)
    assert choose_path(CPU, work=in_run, as_before="readable").engine == "readable"
    assert choose_path(CPU, work=in_run, as_before="amx").why == "as the run began; the processor has AMX"
    assert calls == []
    assert choose_path(CPU, work=in_run, as_before="fused").engine == "amx"  # the machine changed
    assert choose_path(CPU, choice="readable", work=in_run, as_before="amx").engine == "readable"
    assert len(calls) == 1


def test_fast_denoiser_measures_at_its_first_call(measured, monkeypatch):
    monkeypatch.setattr(choose.cpu_program, "why_unavailable", lambda *_: "no AMX")
    monkeypatch.setattr(choose.cpu_program, "instruction_set", lambda dtype: None)
    calls = measured(Row("torch", 1e-6, 0.9), READABLE)
    agent = make_agent()
    fast = FastDenoiser(agent.denoiser, SMALL_WORLD.world_model.sampler)
    assert calls == []
    obs, act = torch.zeros(3, 4, 3, 8, 8), torch.zeros(3, 4, dtype=torch.int64)
    fast.sample(obs, act)
    fast.sample(obs[:2], act[:2])
    assert calls == [["torch", "readable"]]
    assert fast.path == "readable float32"
    assert FastDenoiser(agent.denoiser, engine="torch").path == "torch float32"
    with pytest.raises(ValueError, match=r"^engine: expected one of auto, readable, .*, got 'quick'$"):
        FastDenoiser(agent.denoiser, engine="quick")


@pytest.mark.parametrize(
    ("engine", "variant", "dtype", "short"),
    [
        ("fused", "convolutions", torch.bfloat16, "fused convolutions bfloat16"),
        ("fused", "", torch.float32, "fused float32"),
        ("torch", "float32", torch.float32, "torch float32"),
        ("program", "avx2", torch.float32, "program avx2 float32"),
    ],
)
def test_a_paths_short_name_tells_variants_apart(engine, variant, dtype, short):
    assert Path(torch.device("cpu"), dtype, engine, False, "", variant=variant).short == short
