"""The customer's tiers: from how much GPU memory in all a method is the customary choice."""

from functools import cache

from planner.base.preset_files import ROOT
from planner.base.strict_yaml import Spec, read_spec
from planner.base.units import GIB
from planner.plan.vocabulary import Method


class TierSource(Spec):
    title: str
    note: str


class Tiers(Spec):
    source: TierSource
    meaning: str
    reference_model: str
    reference_params: int
    total_gpu_memory_gib: dict[Method, int]

    def threshold_bytes(self, method: Method, num_params: int) -> int:
        """Scaled linearly with the parameter count."""
        return self.total_gpu_memory_gib[method] * GIB * num_params // self.reference_params


@cache
def load_tiers() -> Tiers:
    return read_spec(Tiers, ROOT / "tiers.yaml")
