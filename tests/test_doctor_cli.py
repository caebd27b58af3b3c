"""``python -m diamond_fast.doctor``: what it prints, and its exit code."""

import subprocess
import sys

import pytest
import torch
from small_world import SMALL_WORLD

from diamond_fast import doctor, health
from diamond_fast.health import Finding
from diamond_fast.speed import MeasuredSpeed, Speed


@pytest.fixture
def small(monkeypatch):
    """The paper's run with tiny networks, at a given speed: nothing takes long."""
    monkeypatch.setattr("diamond_fast.presets.PRESETS", {"atari100k": SMALL_WORLD})
    speed = Speed(1e9, 1e9)
    monkeypatch.setattr("diamond_fast.estimate.measure_speed", lambda *_: MeasuredSpeed(speed, speed))
    monkeypatch.setattr(health, "fast_denoiser", lambda device, config: Finding("FastDenoiser", "on", f"on {device}"))


def run(capsys, *args):
    code = doctor.main(args)
    return code, capsys.readouterr().out


def test_this_machine_is_usable(capsys, small):
    code, out = run(capsys, "--device", "cpu")
    assert code == 0
    assert out.splitlines()[0].startswith("diamond_fast 0.")
    assert out.splitlines()[-1] == "Usable."
    for section in ("Installed", "Game", "GPU", "Fast paths", "Engines for its frames", "Its frames, imagined"):
        assert f"\n{section}\n" in out
    for section in ("Room for it", "What would help"):
        assert f"\n{section}\n" in out
    assert "  engines            off     not measured: DIAMOND_FAST_MEASURE is 0\n" in out
    assert "  time: about " in out
    assert "  FastDenoiser       on      on cpu\n" in out
    assert "compiled replay    on      training batches" in out
    assert "  the paper's run: train on a CUDA GPU; on a CPU take --preset catch, or quick" in out
    assert "replay.json" in out  # of this checkout's own results


def test_a_device_that_is_lost_is_said_without_a_traceback(capsys, monkeypatch):
    def lost(*_, **__):
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr("diamond_fast.presets.PRESETS", {"atari100k": SMALL_WORLD})
    monkeypatch.setattr(torch.nn.Module, "to", lost)
    _, out = run(capsys, "--device", "cpu")
    assert "time: not measured, as the networks do not run on this device (RuntimeError: CUDA error: unspec" in out
    assert "plain sampler      broken  CUDA error: unspecified launch failure" in out


def test_what_is_broken_is_named_and_the_rest_left_alone(capsys, monkeypatch):
    broken = Finding("torch", "broken", "libcudart is missing", "pip install --force-reinstall torch", fatal=True)
    monkeypatch.setattr(health, "imports", lambda: [broken])
    for untouched in ("game", "gpus", "fast_paths", "memory"):
        monkeypatch.setattr(health, untouched, None)
    code, out = run(capsys)
    assert code == 1
    assert "  torch              broken  libcudart is missing\n" in out
    assert "  torch: pip install --force-reinstall torch\n" in out
    assert out.endswith("Not usable: torch\n")


def test_a_missing_package_makes_it_unusable_but_all_else_is_said(capsys, monkeypatch, small):
    missing = Finding("zstandard", "missing", "needs >=0.23", "pip install zstandard", fatal=True)
    monkeypatch.setattr(health, "installed", lambda: [missing])
    code, out = run(capsys)
    assert code == 1
    assert "\nFast paths\n" in out
    assert out.endswith("Not usable: zstandard\n")


def test_results_of_other_machines_are_listed(capsys, monkeypatch, small, tmp_path):
    (tmp_path / "a.json").write_text('{"machine": "an abacus"}')
    (tmp_path / "b.json").write_text("{}")
    monkeypatch.setattr(doctor, "RESULTS", tmp_path)
    _, out = run(capsys)
    assert "  a.json                 an abacus\n  b.json                 machine not recorded\n" in out


def test_bad_flags(capsys):
    for args, line in ((["--device", "tpu"], "--device: expected auto, cpu"), (["--gpu"], "--gpu: unknown flag")):
        with pytest.raises(SystemExit) as stop:
            doctor.main(args)
        assert stop.value.code == 2
        assert line in capsys.readouterr().err


def test_without_its_own_dependencies_it_says_so_in_one_line():
    program = "import sys; sys.modules['tyro'] = None; sys.modules['tyro.conf'] = None\nimport diamond_fast.doctor"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tyro.conf is not installed; in the project's folder: pip install -e .\n"


def test_help_imports_no_torch():
    program = (
        "import sys\n"
        "from diamond_fast.doctor import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
