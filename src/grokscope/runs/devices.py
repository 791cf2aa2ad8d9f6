"""Accelerators a study can be planned for: dense bfloat16 peak and memory, as their makers state them."""

from dataclasses import dataclass

from grokscope.errors import InputError

UTILISATION = 0.4
"""Share of a device's peak that is taken to be reached, where none is given."""


@dataclass(frozen=True)
class Device:
    """One accelerator."""

    name: str
    peak: float
    """Dense bfloat16 matrix products with float32 accumulation, FLOP/s (data sheets often print the double,
    for sparse matrices)."""
    memory: float
    """Bytes."""
    source: str


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device("A100", 312e12, 80e9, "NVIDIA A100 Tensor Core GPU data sheet, 2022"),
        Device("L40S", 362e12, 48e9, "NVIDIA L40S data sheet, 2023"),
        Device("RTX4090", 165.2e12, 24e9, "NVIDIA Ada GPU architecture white paper, 2023, appendix A"),
        Device("H100", 989e12, 80e9, "NVIDIA H100 Tensor Core GPU data sheet, 2023 (SXM)"),
        Device("H100-PCIe", 756e12, 80e9, "NVIDIA H100 Tensor Core GPU data sheet, 2022 (PCIe)"),
        Device("H200", 989e12, 141e9, "NVIDIA H200 Tensor Core GPU data sheet, 2024 (SXM)"),
        Device("B200", 2250e12, 180e9, "NVIDIA DGX B200 data sheet, 2024 (18 PFLOPS of 8, dense)"),
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
