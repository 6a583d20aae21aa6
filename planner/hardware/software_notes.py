"""Notes on whether driver, CUDA and the installed torch fit together, and on what a container
leaves."""

from collections.abc import Iterator

from planner.base.units import MIB
from planner.hardware.cuda_toolkits import (
    Toolkit,
    cuda_toolkits,
    needed_driver,
    toolkit_of,
    version_numbers,
)
from planner.hardware.machine import Selection
from planner.hardware.machine_readings import ENOUGH_SHM_BYTES, Machine, TorchReading


def software_notes(machine: Machine, chosen: Selection) -> Iterator[str]:
    """Yield a note for each part that does not fit."""
    torch = machine.torch
    if torch is not None:
        yield from _torch_notes(torch, machine.nvml.driver_version, chosen)
    yield from _host_notes(machine, chosen)


def _torch_notes(
    torch: TorchReading, driver_version: str | None, chosen: Selection
) -> Iterator[str]:
    if torch.cuda is None:
        built = "is built for ROCm" if torch.hip is not None else "is built without CUDA"
        yield f"The installed torch {torch.version} {built}: a launch would not see the GPUs."
        return
    toolkit = toolkit_of(torch.cuda)
    if toolkit is None:
        return
    needed = needed_driver(torch.cuda, driver_version)
    if needed is not None:
        yield (
            f"Driver {driver_version} is too old for the installed torch {torch.version}: CUDA "
            f"{version_numbers(torch.cuda)[0]} needs {needed} or newer."
        )
    yield from _capability_notes(torch, toolkit, chosen)


def _capability_notes(torch: TorchReading, toolkit: Toolkit, chosen: Selection) -> Iterator[str]:
    first = cuda_toolkits().first_for_capability
    for capability in sorted({each.device.compute_capability or "" for each in chosen.gpus}):
        if not capability:
            continue
        card = f"The installed torch {torch.version} has no code for compute capability"
        if version_numbers(capability) < version_numbers(toolkit.minimum_capability):
            yield (
                f"{card} {capability}: CUDA {torch.cuda} starts at {toolkit.minimum_capability}, "
                "take a torch built with an older CUDA."
            )
        needed = first.get(version_numbers(capability)[0])
        if needed is not None and version_numbers(torch.cuda or "0") < version_numbers(needed):
            yield f"{card} {capability}: it needs a torch built with CUDA {needed} or newer."


def _host_notes(machine: Machine, chosen: Selection) -> Iterator[str]:
    shm = machine.host.shm_bytes
    if shm is not None and shm < ENOUGH_SHM_BYTES and len(chosen.gpus) > 1:
        yield (
            f"/dev/shm has {shm // MIB} MiB, and NCCL and data loaders share memory there: give "
            "the container 1 GiB (docker run --shm-size=1g)."
        )
