"""Whether driver, CUDA and the installed torch go together, and what a container leaves."""

from collections.abc import Iterator
from functools import cache

from planner.machine import Selection
from planner.presets import ROOT
from planner.readings import Machine, TorchReading
from planner.spec import Spec, read_spec
from planner.units import GIB, MIB

SHM_BYTES = GIB
"""read: NCCL's documentation, "Troubleshooting", shared memory: containers get --shm-size=1g."""


class Toolkit(Spec):
    """A major release of CUDA."""

    minimum_driver: str
    minimum_capability: str


class CudaToolkits(Spec):
    meaning: str
    source: str
    toolkits: dict[int, Toolkit]
    first_for_capability: dict[int, str]
    """By the major number of a compute capability: the first release that compiles for it."""


@cache
def cuda_toolkits() -> CudaToolkits:
    return read_spec(CudaToolkits, ROOT / "cuda.yaml")


def software_notes(machine: Machine, chosen: Selection) -> Iterator[str]:
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
    toolkit = cuda_toolkits().toolkits.get(_numbers(torch.cuda)[0])
    if toolkit is None:
        return
    major = _numbers(torch.cuda)[0]
    if driver_version is not None and _numbers(driver_version) < _numbers(toolkit.minimum_driver):
        yield (
            f"Driver {driver_version} is too old for the installed torch {torch.version}: CUDA "
            f"{major} needs {toolkit.minimum_driver} or newer."
        )
    yield from _capability_notes(torch, toolkit, chosen)


def _capability_notes(torch: TorchReading, toolkit: Toolkit, chosen: Selection) -> Iterator[str]:
    first = cuda_toolkits().first_for_capability
    for capability in sorted({each.device.compute_capability or "" for each in chosen.found}):
        if not capability:
            continue
        card = f"The installed torch {torch.version} has no code for compute capability"
        if _numbers(capability) < _numbers(toolkit.minimum_capability):
            yield (
                f"{card} {capability}: CUDA {torch.cuda} starts at {toolkit.minimum_capability}, "
                "take a torch built with an older CUDA."
            )
        needed = first.get(_numbers(capability)[0])
        if needed is not None and _numbers(torch.cuda or "0") < _numbers(needed):
            yield f"{card} {capability}: it needs a torch built with CUDA {needed} or newer."


def _numbers(version: str) -> tuple[int, ...]:
    """
    >>> _numbers("535.104.05") < _numbers("550.54")
    True
    """
    parts = version.split(".")
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in parts)


def _host_notes(machine: Machine, chosen: Selection) -> Iterator[str]:
    shm = machine.host.shm_bytes
    if shm is not None and shm < SHM_BYTES and len(chosen.found) > 1:
        yield (
            f"/dev/shm has {shm // MIB} MiB, and NCCL and data loaders share memory there: give "
            "the container 1 GiB (docker run --shm-size=1g)."
        )
