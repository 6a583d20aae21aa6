"""What a release of CUDA needs of driver and card: ``presets/cuda.yaml``."""

from functools import cache

from planner.base.preset_files import ROOT
from planner.base.strict_yaml import Spec, read_spec


class Toolkit(Spec):
    """A major release of CUDA."""

    minimum_driver: str
    minimum_capability: str


class CudaToolkits(Spec):
    """The content of presets/cuda_toolkits.yaml."""

    meaning: str
    source: str
    toolkits: dict[int, Toolkit]
    first_for_capability: dict[int, str]
    """The first release that compiles for a compute capability, by the capability's major
    number."""


@cache
def cuda_toolkits() -> CudaToolkits:
    """Return the CUDA releases that are known."""
    return read_spec(CudaToolkits, ROOT / "cuda.yaml")


def toolkit_of(cuda: str) -> Toolkit | None:
    """Return the major release that a version belongs to; None for one that is not listed."""
    return cuda_toolkits().toolkits.get(version_numbers(cuda)[0])


def needed_driver(cuda: str, driver_version: str | None) -> str | None:
    """Return the oldest driver for this CUDA where the one at hand is older, else None."""
    toolkit = toolkit_of(cuda)
    if toolkit is None or driver_version is None:
        return None
    too_old = version_numbers(driver_version) < version_numbers(toolkit.minimum_driver)
    return toolkit.minimum_driver if too_old else None


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, which compare as versions do.

    >>> version_numbers("535.104.05") < version_numbers("550.54")
    True
    """
    parts = version.split(".")
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in parts)
