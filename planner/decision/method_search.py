"""The search over every method that a request allows."""

from planner.base.errors import InvalidRequestError
from planner.decision.refusals import pinned_of, refusal
from planner.decision.request import Request
from planner.decision.requested_workload import allowed_series, open_choices, workload
from planner.plan.vocabulary import Method
from planner.search.search import SearchResult, search
from planner.search.series_search import Limit

Results = dict[Method, SearchResult]


def search_method(
    request: Request, method: Method, *, peak_bytes: int | None = None
) -> SearchResult:
    """Return the candidates of one method; ``peak_bytes`` bounds what their tensors take, too."""
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
    """Return the allowed methods that have a layout under the options; there may be none."""
    results = {method: search_method(request, method) for method in request.methods}
    return {method: result for method, result in results.items() if result.series}


def search_methods(request: Request) -> Results:
    """Return the same; raises InvalidRequestError where there is none."""
    possible = possible_methods(request)
    if not possible:
        raise InvalidRequestError(refusal(request))
    return possible
