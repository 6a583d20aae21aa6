"""The search over every method that a request allows."""

from collections import Counter

from planner.base.errors import InvalidRequestError, UntraceableError
from planner.base.phrases import Reason
from planner.decision.refusals import pinned_of, refusal
from planner.decision.request import Request
from planner.decision.requested_workload import allowed_series, open_choices, workload
from planner.models.traced_model import TracedSpec
from planner.plan.vocabulary import Method
from planner.search.search import SearchResult, search
from planner.search.series_search import Limit
from planner.workload.workload import Workload

Results = dict[Method, SearchResult]


def search_method(
    request: Request, method: Method, *, peak_bytes: int | None = None
) -> SearchResult:
    """Return the candidates of one method; ``peak_bytes`` bounds what their tensors take, too.

    A method whose steps cannot be traced, on a model without formulas, has none.
    """
    work = workload(request, method)
    result = _searched(request, work, peak_bytes)
    try:
        _try_to_trace(work, result)
    except UntraceableError as error:
        return SearchResult([], Counter({Reason("untraceable", error.message): 1}))
    return result


def _searched(request: Request, work: Workload, peak_bytes: int | None) -> SearchResult:
    return search(
        work,
        open_choices(request, work),
        request.cluster,
        allowed_series(request, work),
        limit=Limit(budget_bytes=request.budget_bytes, peak_bytes=peak_bytes),
        pinned=pinned_of(request),
    )


def _try_to_trace(work: Workload, result: SearchResult) -> None:
    """Trace the leanest step of a model without formulas, which the search needs anyway."""
    if isinstance(work.model, TracedSpec) and result.series:
        leanest = result.series[0].group.leanest
        refused = work.method == "full" and work.model.towers  # before anything is traced
        if leanest.holds_states or refused:
            leanest.candidate(0).footprint  # noqa: B018 (computed on first access, which may raise)


def possible_methods(request: Request) -> Results:
    """Return the allowed methods that have a layout under the options; there may be none."""
    results = {method: search_method(request, method) for method in request.methods}
    return {method: result for method, result in results.items() if result.series}


def search_methods(request: Request) -> Results:
    """Return the same; raises InvalidRequestError where there is none."""
    possible = possible_methods(request)
    if not possible:
        _refuse_untraceable(request)
        raise InvalidRequestError(refusal(request))
    return possible


def _refuse_untraceable(request: Request) -> None:
    """Raise UntraceableError if a method has layouts, none of which can be traced."""
    for method in request.methods:
        work = workload(request, method)
        _try_to_trace(work, _searched(request, work, None))
