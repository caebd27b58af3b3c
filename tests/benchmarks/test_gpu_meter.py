"""What is made of the driver's readings, with a driver that is not there."""

from types import SimpleNamespace

import gpu_meter
import pytest
import torch
from gpu_meter import GpuMeter, describe_gpu

REASONS = {name: 1 << bit for bit, name in enumerate(gpu_meter.SLOWED_BY.values())}


class Driver(SimpleNamespace):
    """A GPU that draws 500 W on a clock of its own."""

    NVML_CLOCK_SM = 1
    NVMLError = OSError

    def __init__(self):
        super().__init__(now=0.0, watts=500, reasons=0, **REASONS)

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        assert uuid == "GPU-abc"
        return "handle"

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return 1980 - 200 * bool(self.reasons)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self.reasons

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return int(self.now * self.watts * 1000)


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(gpu_meter, "pynvml", driver)
    monkeypatch.setattr(gpu_meter, "time", SimpleNamespace(perf_counter=lambda: driver.now))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return driver


def test_work_per_joule(driver):
    def call():
        driver.now += 0.5

    readings = GpuMeter(torch.device("cuda")).energy(call, work=1000, unit="NFE/s", seconds=2.0)
    assert readings == {"NFE per joule": 4.0, "watts": 500.0}  # 4 calls of 1000 in 2 seconds of 500 W


def test_a_meter_that_stands_still_measures_nothing(driver):
    driver.watts = 0

    def call():
        driver.now += 5

    readings = GpuMeter(torch.device("cuda")).energy(call, 1, "call", 1.0)
    assert readings == {"not_measured": "energy: the meter did not move"}


def test_clocks_and_what_lowered_them(driver):
    meter = GpuMeter(torch.device("cuda"))
    before = meter.clock()
    driver.reasons = (
        REASONS["nvmlClocksThrottleReasonSwPowerCap"] | REASONS["nvmlClocksThrottleReasonSwThermalSlowdown"]
    )
    meter.note_clocks(before)
    assert meter.notes == {"clock_mhz_before": 1980, "clock_mhz_after": 1780, "slowed_by": ["power cap", "heat"]}


def test_without_the_drivers_library_the_notes_say_so(monkeypatch, driver):
    monkeypatch.setattr(gpu_meter, "pynvml", None)
    meter = GpuMeter(torch.device("cuda"))
    assert meter.notes == {"not_measured": "energy and clocks: nvidia-ml-py is not installed"}
    assert meter.clock() is None
    assert meter.energy(lambda: None, 1, "call", 0.0) == {}


def test_a_cpu_has_no_readings():
    meter = GpuMeter(torch.device("cpu"))
    meter.note_clocks(meter.clock())
    assert meter.notes == {}
    assert describe_gpu(torch.device("cpu")) is None


def test_the_reasons_are_nvidias():
    pynvml = pytest.importorskip("pynvml")
    assert all(hasattr(pynvml, name) for name in gpu_meter.SLOWED_BY.values())
