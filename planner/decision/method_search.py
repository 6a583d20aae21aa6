"""The search over each method that a request leaves open."""

from planner.base.errors import InvalidRequestError
from planner.decision.request import Request
from planner.decision.requested_workload import allowed_series, open_choices, workload
from planner.plan.vocabulary import Method
from planner.search.search import SearchResult, search
from planner.search.series_search import Limit
from planner.workload.rules import Pinned

Results = dict[Method, SearchResult]


def search_method(
    request: Request, method: Method, *, peak_bytes: int | None = None
) -> SearchResult:
    """The candidates of one method for a request; ``peak_bytes`` bounds their tensors too."""
    work = workload(request, method)
    return search(
        work,
        open_choices(request, work),
        request.cluster,
        allowed_series(request, work),
        limit=Limit(budget_bytes=request.budget_bytes, peak_bytes=peak_bytes),
        pinned=pinned_of(request),
    )


def possible_methods(request: Request) -> Results:
    """Every method open to choice that the pinned options leave a layout to; perhaps none."""
    return _with_a_layout({method: search_method(request, method) for method in request.methods})


def _with_a_layout(results: Results) -> Results:
    return {method: result for method, result in results.items() if result.lanes}


def pinned_of(request: Request) -> frozenset[Pinned]:
    """What advice yields to."""
    layout = request.zero_stage is not None or request.offload is not None
    return frozenset({"strategy"} if layout else ())


def search_methods(request: Request) -> Results:
    """The same; raises InvalidRequestError where there is none."""
    results = {method: search_method(request, method) for method in request.methods}
    possible = _with_a_layout(results)
    if not possible:
        method, result = next(iter(results.items()))
        reason = "; ".join(result.forbidden) or "no layout agrees with all that is pinned"
        if not _pinned_layout(request):
            raise InvalidRequestError(
                f"{method} does not go with {request.model.name}: {reason}. Take another --method"
            )
        raise InvalidRequestError(
            f"{_pinned_layout(request)} does not go with {method}: {reason}. "
            "Leave it out, or take another --method"
        )
    return possible


def _pinned_layout(request: Request) -> str:
    """The options that rules speak of, as they were given; nothing where none of them is of the
    layout or of attention."""
    if request.zero_stage is None and request.offload in (None, "none") and not request.attention:
        return ""
    given = {
        "--zero-stage": request.zero_stage,
        "--offload": request.offload,
        "--optimizer": request.optimizer,
        "--attention": request.attention,
    }
    options = [f"{option} {value}" for option, value in given.items() if value is not None]
    return " with ".join(options)
