"""What does the NVIDIA driver say about the device: energy, clocks, throttling, processes? None where it does not say.

The library can be missing, a container can forbid it, a MIG slice can refuse a counter. None of that may end a job, so
every reading here is a value or None. The device is found by UUID, because NVML
counts all devices of the host and knows nothing of CUDA_VISIBLE_DEVICES.
"""

import importlib
from collections.abc import Callable
from typing import Any

FAULTS: dict[int, str] = {
    0x08: "hw_slowdown",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
}
"""Reasons that count as throttling: the device runs below what it can sustain, and a pause may cure it (nvml.h, clocks
event reasons)."""

POWER_CAP: dict[int, str] = {0x04: "sw_power_cap"}
"""Clocks held at the board's power limit: how such a device runs under compute-bound load. Reported, but no throttling:
a retry cannot cure it, and a gate on it would refuse every large batch, diffusion's first."""

# Not limits at all: 0x01 idle, 0x02 clocks set by the user, 0x10 sync boost, 0x100 display clocks.


class Nvml:
    """One device, by UUID. Without NVML every method returns None, and `reason` says why.

    Args:
        uuid: of the device; None takes the only one.
        library: with the functions of pynvml; None imports it.
    """

    def __init__(self, uuid: str | None, library: Any = None) -> None:
        self._library: Any = None
        self._handle: Any = None
        self.reason: str | None = None
        try:
            nvml = importlib.import_module("pynvml") if library is None else library
            nvml.nvmlInit()
            self._library, self._handle = nvml, _handle(nvml, uuid)
        except Exception as error:  # missing library or driver, forbidden, unknown UUID: all mean "does not say"
            self.reason = f"{type(error).__name__}: {error}"

    def driver(self) -> str | None:
        """Version of the driver."""
        value = self._read(lambda nvml, _: nvml.nvmlSystemGetDriverVersion())
        return value.decode() if isinstance(value, bytes) else value

    def energy_joules(self) -> float | None:
        """Energy since the driver was loaded. The counter moves every 20 to 100 ms or so: read it over long windows."""
        millijoules = self._read(lambda nvml, handle: nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        return None if millijoules is None else millijoules / 1000

    def sm_clock_mhz(self) -> int | None:
        """Present clock of the streaming multiprocessors."""
        value = self._read(lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
        return None if value is None else int(value)

    def throttle_reasons(self) -> tuple[str, ...] | None:
        """Names of what holds the clocks down now: `FAULTS` and `POWER_CAP`; () = read and none active."""
        bits = self._read(lambda nvml, handle: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        if bits is None:  # before driver 535 under its older name
            bits = self._read(lambda nvml, handle: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        return None if bits is None else decode_reasons(int(bits))

    def processes(self) -> list[tuple[int, int]] | None:
        """(pid, bytes) of each context on the device, pids of the driver's namespace; 0 bytes where it does not say.

        In some sandboxes (gVisor) all processes have the pid of the sandbox, once for each context.
        """
        found = self._read(lambda nvml, handle: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        return None if found is None else [(int(item.pid), item.usedGpuMemory or 0) for item in found]

    def free_bytes(self) -> int | None:
        """Memory of the device that nobody holds."""
        found = self._read(lambda nvml, handle: nvml.nvmlDeviceGetMemoryInfo(handle).free)
        return None if found is None else int(found)

    def process_samples(self, since_us: int) -> list[tuple[int, int, int]] | None:
        """(pid, time in microseconds since 1970, share of the multiprocessors in percent), newer than `since_us`.

        The driver samples every 0.2 to 1 s and keeps some of the past; idle processes have no samples.
        """

        def query(nvml: Any, handle: Any) -> list[tuple[int, int, int]]:
            try:
                found = nvml.nvmlDeviceGetProcessUtilization(handle, since_us)
            except nvml.NVMLError_NotFound:
                return []
            return [(int(s.pid), int(s.timeStamp), int(s.smUtil)) for s in found if s.timeStamp > since_us]

        samples: list[tuple[int, int, int]] | None = self._read(query)
        return samples

    def _read(self, query: Callable[[Any, Any], Any]) -> Any:
        if self._handle is None:
            return None
        try:
            return query(self._library, self._handle)
        except Exception:  # NVMLError (not supported, no permission), or a function this pynvml does not have
            return None


def decode_reasons(bits: int) -> tuple[str, ...]:
    """The limiting reasons in NVML's bit mask, by name; idle, user-set clocks and display clocks limit nothing."""
    return tuple(name for bit, name in (FAULTS | POWER_CAP).items() if bits & bit)


def _handle(nvml: Any, uuid: str | None) -> Any:
    if uuid is not None:
        try:
            return nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
        except nvml.NVMLError:
            pass
    if nvml.nvmlDeviceGetCount() == 1:  # no doubt about which one
        return nvml.nvmlDeviceGetHandleByIndex(0)
    raise LookupError(f"no device with UUID {uuid}")
