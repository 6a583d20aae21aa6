"""The search over each method that a request leaves open."""

from collections.abc import Iterator

from planner.base.errors import InvalidRequestError
from planner.decision.request import Request
from planner.decision.requested_workload import open_choices, workload
from planner.models.traced_model import TracedSpec
from planner.plan.vocabulary import ZERO_STAGE, Method
from planner.search.search import SearchResult, search
from planner.search.series_search import Limit
from planner.workload.layout import PARTIAL, Series, series
from planner.workload.rules import Pinned
from planner.workload.workload import Workload


def allowed_series(request: Request, work: Workload) -> Iterator[Series]:
    """Every layout of the workload that agrees with what is pinned."""
    ranks = request.cluster.world_size
    for each in series(
        samples_per_rank=work.settings.global_batch_size // ranks,
        world_size=ranks,
        partial=_partial_checkpointing(request),
        offload=request.offload or "none",
    ):
        if request.zero_stage not in (None, ZERO_STAGE[each.strategy]):
            continue
        if not _recomputes_as_pinned(request, each.checkpointing):
            continue
        if request.micro_batch_size is None:
            yield each
        elif request.micro_batch_size in each.micro_batch_sizes:
            yield each._replace(micro_batch_sizes=(request.micro_batch_size,))


def _partial_checkpointing(request: Request) -> tuple[int, ...]:
    """Every how many layers one may be recomputed, where not all are."""
    pinned, num_layers = request.checkpoint_every, request.model.spec.num_layers
    if pinned is not None:
        return (pinned,) if pinned > 1 else ()
    if isinstance(request.model.spec, TracedSpec):
        return ()  # each would be traced
    return tuple(every for every in PARTIAL if every <= num_layers)


def _recomputes_as_pinned(request: Request, checkpointing: int) -> bool:
    if request.checkpoint_every is not None:
        return checkpointing == request.checkpoint_every
    if request.activation_checkpointing is None:
        return True
    return checkpointing == int(request.activation_checkpointing)


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
    return {method: result for method, result in results.items() if result.series}


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
