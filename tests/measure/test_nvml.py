"""What NVML's bit mask means, and that a machine without NVML still runs."""

import pynvml
import pytest

from llmbench.measure.nvml import FAULTS, POWER_CAP, Nvml, decode_reasons


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0, ()),
        (0x01, ()),  # idle
        (0x02, ()),  # clocks set by the user
        (0x100, ()),  # display clocks
        (0x04, ("sw_power_cap",)),
        (0x08 | 0x40, ("hw_slowdown", "hw_thermal_slowdown")),
        (0x01 | 0x20 | 0x80, ("sw_thermal_slowdown", "hw_power_brake_slowdown")),
    ],
)
def test_only_what_limits_the_clocks_is_named(bits: int, names: tuple[str, ...]) -> None:
    assert decode_reasons(bits) == names


def test_the_bits_are_those_of_the_driver_library() -> None:
    assert {
        pynvml.nvmlClocksEventReasonHwSlowdown: "hw_slowdown",
        pynvml.nvmlClocksEventReasonSwThermalSlowdown: "sw_thermal_slowdown",
        pynvml.nvmlClocksEventReasonHwThermalSlowdown: "hw_thermal_slowdown",
        pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "hw_power_brake_slowdown",
        pynvml.nvmlClocksEventReasonSwPowerCap: "sw_power_cap",
    } == FAULTS | POWER_CAP


def test_a_device_that_is_not_there_answers_none_and_says_why() -> None:
    nvml = Nvml("GPU-00000000-0000-0000-0000-000000000000")
    if nvml.reason is None:  # a machine with exactly one device takes it without a doubt
        return
    assert (nvml.driver(), nvml.energy_joules(), nvml.sm_clock_mhz(), nvml.throttle_reasons()) == (None,) * 4
