"""Notes on whether driver, CUDA and the installed torch fit together, and on what a container
leaves."""

from collections.abc import Iterator

from planner.base.phrases import Phrase
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
        built = Phrase("is built without CUDA")
        if torch.hip is not None:
            built = Phrase("is built for ROCm")
        yield Phrase(
            "The installed torch {version} {built}: a launch would not see the GPUs.",
            version=torch.version,
            built=built,
        )
        return
    toolkit = toolkit_of(torch.cuda)
    if toolkit is None:
        return
    needed = needed_driver(torch.cuda, driver_version)
    if needed is not None:
        yield (
            Phrase(
                "Driver {driver_version} is too old for the installed torch {version}: CUDA "
                "{major} needs {needed} or newer.",
                driver_version=driver_version,
                version=torch.version,
                major=version_numbers(torch.cuda)[0],
                needed=needed,
            )
        )
    yield from _capability_notes(torch, toolkit, chosen)


def _capability_notes(torch: TorchReading, toolkit: Toolkit, chosen: Selection) -> Iterator[str]:
    first = cuda_toolkits().first_for_capability
    for capability in sorted({each.device.compute_capability or "" for each in chosen.gpus}):
        if not capability:
            continue
        card = Phrase(
            "The installed torch {version} has no code for compute capability",
            version=torch.version,
        )
        if version_numbers(capability) < version_numbers(toolkit.minimum_capability):
            yield (
                Phrase(
                    "{card} {capability}: CUDA {cuda} starts at {minimum}, take a "
                    "torch built with an older CUDA.",
                    card=card,
                    capability=capability,
                    cuda=torch.cuda,
                    minimum=toolkit.minimum_capability,
                )
            )
        needed = first.get(version_numbers(capability)[0])
        if needed is not None and version_numbers(torch.cuda or "0") < version_numbers(needed):
            yield Phrase(
                "{card} {capability}: it needs a torch built with CUDA {needed} or newer.",
                card=card,
                capability=capability,
                needed=needed,
            )


def _host_notes(machine: Machine, chosen: Selection) -> Iterator[str]:
    shm = machine.host.shm_bytes
    if shm is not None and shm < ENOUGH_SHM_BYTES and len(chosen.gpus) > 1:
        yield (
            Phrase(
                "/dev/shm has {shm} MiB, and NCCL and data loaders share memory there: give "
                "the container 1 GiB (docker run --shm-size=1g).",
                shm=shm // MIB,
            )
        )
