"""Tiers: the total GPU memory from which a method is the customary choice (presets/tiers.yaml)."""

from functools import cache

from planner.base.preset_files import ROOT
from planner.base.strict_yaml import Spec, read_spec
from planner.base.units import GIB, ceil_div
from planner.plan.vocabulary import Method


class TierSource(Spec):
    """The source of the tiers."""

    title: str
    note: str


class Tiers(Spec):
    """The content of presets/tiers.yaml."""

    source: TierSource
    meaning: str
    reference_model: str
    reference_params: int
    total_gpu_memory_gib: dict[Method, int]

    def threshold_bytes(self, method: Method, num_params: int) -> int:
        """Return the bytes from which a method is preferred, scaled by the parameter count."""
        return self.total_gpu_memory_gib[method] * GIB * num_params // self.reference_params


def tier_gib(num_bytes: int) -> str:
    """Return GiB as tiers are written, rounded up: whole from ten on, since cards are.

    >>> tier_gib(24 * GIB), tier_gib(80 * GIB + 1), tier_gib(GIB // 2)
    ('24', '81', '0.5')
    """
    if num_bytes >= 10 * GIB:
        return f"{ceil_div(num_bytes, GIB):,}"
    return f"{ceil_div(10 * num_bytes, GIB) / 10:g}"


@cache
def load_tiers() -> Tiers:
    """Return the tiers of presets/tiers.yaml."""
    return read_spec(Tiers, ROOT / "tiers.yaml")
