"""The environment of a process that sees simulated cards."""

import os
from collections.abc import Mapping
from pathlib import Path

from launcher.simulated_gpu.compile import stand_ins
from launcher.simulated_gpu.machine_file import SimulatedCards, machine_text

PACKAGE_ROOT = Path(__file__).parent.parent.parent
SITE = Path(__file__).parent / "site"


def simulated_environment(
    cards: SimulatedCards, caller: Mapping[str, str], scratch: Path
) -> dict[str, str]:
    """Return the caller's environment on a machine with these cards, written into ``scratch``.

    Processes with the same scratch folder share the cards. The loader reads LD_LIBRARY_PATH when a
    process starts: it is for children. Compiled code starts its kernels as Triton does, by calls
    that are simulated. Raise InvalidRequestError without a CUDA build of torch.
    """
    folder = stand_ins()
    machine = scratch / "machine.txt"
    machine.write_text(machine_text(cards))
    return {
        **caller,
        "LD_LIBRARY_PATH": joined(folder, caller.get("LD_LIBRARY_PATH")),
        "PYTHONPATH": joined(SITE, str(PACKAGE_ROOT), caller.get("PYTHONPATH")),
        "SIMULATED_GPU_LEDGER": str(scratch / "ledger"),
        "SIMULATED_GPU_MACHINE": str(machine),
        "TORCHINDUCTOR_USE_STATIC_CUDA_LAUNCHER": "0",
        "TRITON_LIBCUDA_PATH": str(folder),
    }


def joined(*places: Path | str | None) -> str:
    """Return a search path of those places that are given."""
    return os.pathsep.join(str(place) for place in places if place)
