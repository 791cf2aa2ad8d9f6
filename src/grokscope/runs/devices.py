"""Accelerators a study can be planned for: peak, memory and its bandwidth as their makers state them, and how
long a step takes there.

A step is bound by launching its operations, or by what they do: a matrix product takes its FLOP at the rate
that large products reach, or its bytes at the memory's bandwidth, whichever is longer; every other operation
its bytes. Nothing is fused and the bandwidth is the maker's: on the one device that was measured what a
compiler saves and what a real kernel loses nearly cancel (docs/planning.md has the rows).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from grokscope.errors import InputError

if TYPE_CHECKING:  # the command line reads the names of devices without torch
    from grokscope.models.flops import Operations

UTILISATION = 0.4
"""Share of a device's peak that a whole training is taken to reach, where hours are FLOP over a rate."""
REACHED = 0.68
"""Share of a device's peak that large matrix products reach: 675 of 989 TFLOP/s on an H200."""
LAUNCH = 5.6e-6
"""Seconds to launch an operation from a compiled step: the pocket study's 883 in 4.98 ms (H200)."""


@dataclass(frozen=True)
class Device:
    """One accelerator."""

    name: str
    peak: float
    """Dense bfloat16 matrix products with float32 accumulation, FLOP/s (data sheets often print the double,
    for sparse matrices)."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes per second to and from its memory."""
    source: str

    def seconds(self, step: "Operations", reached: float = REACHED, members: int = 1) -> float:
        """How long a compiled step of a population takes.

        Args:
            step: of one member. reached: share of the peak that matrix products reach. members: trained
                together: launched once, computed for each.
        """
        return max(self._bounds(step, reached, members).values())

    def bound(self, step: "Operations", reached: float = REACHED, members: int = 1) -> str:
        """What that time goes into: launches, products or memory."""
        launches, work = self._bounds(step, reached, members).values()
        if launches >= work:
            return "launches"
        arithmetic = members * sum(flop for flop, _ in step.products) / (self.peak * reached)
        return "products" if arithmetic > work / 2 else "memory"

    def _bounds(self, step: "Operations", reached: float, members: int) -> dict[str, float]:
        rate = self.peak * reached
        products = sum(max(flop / rate, size / self.bandwidth) for flop, size in step.products)
        return {
            "launches": step.calls * LAUNCH,
            "work": members * (products + step.moved / self.bandwidth),
        }


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device("A100", 312e12, 80e9, 2.039e12, "NVIDIA A100 Tensor Core GPU data sheet, 2022"),
        Device("L40S", 362e12, 48e9, 0.864e12, "NVIDIA L40S data sheet, 2023"),
        Device(
            "RTX4090", 165.2e12, 24e9, 1.008e12, "NVIDIA Ada GPU architecture white paper, 2023, appendix A"
        ),
        Device("H100", 989e12, 80e9, 3.35e12, "NVIDIA H100 Tensor Core GPU data sheet, 2023 (SXM)"),
        Device("H100-PCIe", 756e12, 80e9, 2.0e12, "NVIDIA H100 Tensor Core GPU data sheet, 2022 (PCIe)"),
        Device("H200", 989e12, 141e9, 4.8e12, "NVIDIA H200 Tensor Core GPU data sheet, 2024 (SXM)"),
        Device("B200", 2250e12, 180e9, 8.0e12, "NVIDIA DGX B200 data sheet, 2024 (18 PFLOPS of 8, dense)"),
    )
}
"""By name."""


def device_of(name: str) -> Device:
    """A device by name, in any case.

    Raises:
        InputError: it is not known.
    """
    for known, device in DEVICES.items():
        if known.lower() == name.lower():
            return device
    raise InputError(f"device = {name!r}: allowed are {', '.join(DEVICES)}.")
