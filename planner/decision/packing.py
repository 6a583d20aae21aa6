"""Whether several samples in a sequence would pay: the packed way priced beside the other."""

from dataclasses import dataclass, replace

from planner.datasets.training_data import KnownData
from planner.decision.epochs import epochs_of, ranking_run_time_s
from planner.decision.method_search import search_method
from planner.decision.request import Request
from planner.recipes.load_recipe import load_recipe
from planner.search.candidate import Candidate
from planner.speed.card_rates import speed_data


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWay:
    """The fastest packed layout of a method on known data, or why there is none."""

    candidate: Candidate | None
    why_not: str = ""


def packed_way(request: Request, chosen: Candidate) -> PackedWay | None:
    """Nothing where packing would not pay, or somebody has said whether to pack.

    It changes what is learned from: a step of as many sequences sees more samples.
    """
    data = open_data(request, chosen)
    if data is None or not epochs_of(chosen, data).packing_pays:
        return None
    result = search_method(replace(request, packing=True), chosen.method)
    if result.best is not None:
        return PackedWay(candidate=result.best)
    why = "no packed layout fits" if result.series else next(iter(result.forbidden), "")
    return PackedWay(candidate=None, why_not=why)


def open_data(request: Request, chosen: Candidate) -> KnownData | None:
    """The data whose lengths are known, where packing is open."""
    recipe = request.recipe or load_recipe(chosen.method)
    if request.data is None or request.packing is not None or recipe.packing is not None:
        return None
    return request.data.known


def packing_is_faster(request: Request, chosen: Candidate, packed: PackedWay | None) -> bool:
    """A whole run, by more than can be told apart."""
    data = open_data(request, chosen)
    if data is None or packed is None or packed.candidate is None:
        return False
    share = 1 + speed_data().told_apart.share
    return share * ranking_run_time_s(packed.candidate, data) < ranking_run_time_s(chosen, data)
