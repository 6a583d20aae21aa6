"""Whether packing would pay: the candidate is priced with and without several samples per
sequence."""

from msgspec import Struct, structs

from planner.base.phrases import Phrase
from planner.datasets.training_data import KnownData
from planner.decision.epochs import epochs_of, ranking_run_time_s
from planner.decision.method_search import search_method
from planner.decision.refusals import why_no_layout
from planner.decision.request import Request
from planner.search.candidate import Candidate
from planner.speed.card_rates import speed_data


class PackedWay(Struct, frozen=True, kw_only=True):
    """The fastest packed layout of a method on known data."""

    candidate: Candidate | None
    """None where no packed layout is allowed or fits."""
    why_not: str = ""
    """The reason for None, in words."""


def packed_way(request: Request, chosen: Candidate) -> PackedWay | None:
    """Return the packed way; None where packing would not pay or an option or recipe decides it.

    Packing changes what a step learns from: as many sequences hold more samples.
    """
    data = open_data(request, chosen)
    if data is None or not epochs_of(chosen, data).packing_pays:
        return None
    packed = structs.replace(request, packing=True)
    result = search_method(packed, chosen.method)
    if result.best is not None:
        return PackedWay(candidate=result.best)
    fits = Phrase("no packed layout fits")
    return PackedWay(
        candidate=None, why_not=fits if result.series else why_no_layout(packed, chosen.method)
    )


def open_data(request: Request, chosen: Candidate) -> KnownData | None:
    """Return the data whose lengths are known; None without them or where packing is decided."""
    stated = request.packing, request.recipe_for(chosen.method).packing
    if request.data is None or stated != (None, None):
        return None
    return request.data.known


def packing_is_faster(request: Request, chosen: Candidate, packed: PackedWay | None) -> bool:
    """Return whether a packed run is faster by more than the speed model can resolve."""
    data = open_data(request, chosen)
    if data is None or packed is None or packed.candidate is None:
        return False
    share = 1 + speed_data().told_apart.share
    return share * ranking_run_time_s(packed.candidate, data) < ranking_run_time_s(chosen, data)
