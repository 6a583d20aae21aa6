"""Memory as counted by others: by the kernel for a process, by NVML for a card."""

import torch

from launcher.run.process_memory import resident_bytes
from planner.hardware.nvml import read_nvml


class ResidentCounters:
    """Memory of a process at the end of a phase. The kernel keeps one peak only, not one per
    phase."""

    def start(self) -> None:
        """Do nothing: no counter has to be reset."""

    def read(self) -> dict[str, int]:
        return {"resident": resident_bytes()}


def driver_used_bytes(device: torch.device) -> int | None:
    """Return the bytes of a card that all processes hold, without the driver's share; None on the
    CPU.

    This process's context is included from its first CUDA call on; before that only others' memory
    is.
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
