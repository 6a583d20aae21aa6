"""How much memory a candidate lacks, and where."""

from typing import NamedTuple

from planner.base.units import format_gib
from planner.decision.request import Request
from planner.search.candidate import Candidate


class Shortage(NamedTuple):
    """The memory that a candidate needs and what there is of it, of a device or of the host."""

    needed_bytes: int
    available_bytes: int
    on_host: bool

    @property
    def gib(self) -> str:
        """GiB that are missing."""
        return format_gib(self.needed_bytes - self.available_bytes)


def shortage(request: Request, candidate: Candidate) -> Shortage:
    """Return what a candidate that does not fit lacks: the device's memory, or where that is
    enough the host's."""
    needed, budget = candidate.memory.high_bytes, request.budget_bytes
    host = request.cluster.host_ram_bytes
    if needed > budget or host is None or request.cluster.accelerator.unified_memory:
        return Shortage(needed, budget, on_host=False)
    return Shortage(candidate.host.node_bytes, host, on_host=True)
