"""Memory as others count it: the kernel for a process, NVML for a card."""

import torch

from launcher.run.process_memory import resident_bytes
from planner.hardware.nvml import read_nvml


class ResidentCounters:
    """A process's memory at the end of a phase. The kernel keeps one peak, and not by phase."""

    def start(self) -> None:
        """Nothing to set back."""

    def read(self) -> dict[str, int]:
        return {"resident": resident_bytes()}


def driver_used_bytes(device: torch.device) -> int | None:
    """What all processes hold of a card, without the driver's own share; nothing on the CPU.

    A process's context is in it from its first call on; before that this is what others hold.
    """
    if device.type == "cpu":
        return None
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    for card in read_nvml().devices:
        if (
            card.uuid.removeprefix("GPU-") == uuid
            and card.total_bytes is not None
            and card.free_bytes is not None
        ):
            return card.total_bytes - card.reserved_bytes - card.free_bytes
    return None
