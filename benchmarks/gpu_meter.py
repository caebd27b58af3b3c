"""What NVIDIA's driver says of the GPU while it is measured: energy, clocks, and whether it was slowed down."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

try:
    import pynvml
except ImportError:
    pynvml = None

SLOWED_BY = {
    "power cap": "nvmlClocksThrottleReasonSwPowerCap",
    "heat": "nvmlClocksThrottleReasonSwThermalSlowdown",
    "hardware": "nvmlClocksThrottleReasonHwSlowdown",
    "hardware heat": "nvmlClocksThrottleReasonHwThermalSlowdown",
    "power brake": "nvmlClocksThrottleReasonHwPowerBrakeSlowdown",
}


def describe_gpu(device: torch.device) -> dict[str, str] | None:
    """Name and driver; None for a CPU."""
    if device.type != "cuda":
        return None
    driver = "not known"
    if pynvml is not None:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            driver = str(pynvml.nvmlSystemGetDriverVersion())
    return {"name": torch.cuda.get_device_name(device), "driver": driver}


class GpuMeter:
    """Readings of one GPU. On a CPU, or without the driver's library, there are none, and ``notes`` says why.

    Args:
        device: that is measured.
    """

    def __init__(self, device: torch.device):
        self.notes: dict[str, Any] = {}
        self._handle = None
        self._device = device
        if device.type != "cuda":
            return
        if pynvml is None:
            self.notes["not_measured"] = "energy and clocks: nvidia-ml-py is not installed"
            return
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        except pynvml.NVMLError as error:
            self.notes["not_measured"] = f"energy and clocks: {error}"

    def clock(self) -> int | None:
        """The multiprocessors' clock in MHz."""
        if self._handle is None:
            return None
        with suppress(pynvml.NVMLError):
            return pynvml.nvmlDeviceGetClockInfo(self._handle, pynvml.NVML_CLOCK_SM)
        return None

    def note_clocks(self, before: int | None) -> None:
        """Right behind a measurement, while the reasons of a lower clock still stand."""
        if self._handle is None:
            return
        self.notes |= {"clock_mhz_before": before, "clock_mhz_after": self.clock(), "slowed_by": self._slowed_by()}

    def _slowed_by(self) -> list[str]:
        try:
            reasons = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle)
        except pynvml.NVMLError:
            return ["not reported"]
        return [name for name, constant in SLOWED_BY.items() if reasons & getattr(pynvml, constant)]

    def energy(self, call: Callable[[], object], work: float, unit: str, seconds: float) -> dict[str, Any]:
        """Runs it alone for so long and returns its work per joule of the whole board."""
        if self._handle is None:
            return {}
        try:
            torch.cuda.synchronize(self._device)
            started, before, calls = time.perf_counter(), self._millijoules(), 0
            while calls == 0 or time.perf_counter() - started < seconds:
                call()
                torch.cuda.synchronize(self._device)
                calls += 1
            joules = (self._millijoules() - before) / 1e3
        except pynvml.NVMLError as error:
            return {"not_measured": f"energy: {error}"}
        took = time.perf_counter() - started
        if joules <= 0:
            return {"not_measured": "energy: the meter did not move"}
        per_joule = unit.removesuffix("/s") + " per joule"
        return {per_joule: float(f"{work * calls / joules:.4g}"), "watts": round(joules / took, 1)}

    def _millijoules(self) -> int:
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
