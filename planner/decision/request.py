"""What the user asked for, checked, and the workloads and layouts it allows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from msgspec import structs

from planner.base.errors import InvalidRequestError
from planner.base.preset_files import ModelPreset
from planner.base.units import format_gib, round_up
from planner.datasets.training_data import TrainingData, sequence_length
from planner.hardware.cluster import Cluster
from planner.models.adapter_targets import Targets, lora_targets
from planner.models.traced_model import TracedSpec
from planner.plan.schema import (
    METHODS,
    ZERO_STAGE,
    AdapterSection,
    AttentionName,
    Loss,
    Method,
    Offload,
    OptimizerName,
    Precision,
    ZeroStage,
)
from planner.recipes.load_recipe import load_recipe, trained_by
from planner.recipes.recipe import Recipe, Workload, one_of_equals
from planner.search.loss_attention_variants import Choice, admitted_attention, choices
from planner.search.search import SearchResult, search
from planner.search.series_search import Limit
from planner.workload.layout import PARTIAL, Series, series
from planner.workload.rules import Pinned

Prefer = Literal["tiers", "quality", "speed", "memory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A model, a machine, and what is pinned; everything left open is chosen."""

    model: ModelPreset
    cluster: Cluster
    prefer: Prefer = "tiers"
    recipe: Recipe | None = None
    method: Method | None = None
    sequence_length: int | None = None
    global_batch_size: int | None = None
    micro_batch_size: int | None = None
    zero_stage: ZeroStage | None = None
    offload: Offload | None = None
    """Nothing where it is open: then it is a last resort (planner/decision/choose.py)."""
    activation_checkpointing: bool | None = None
    checkpoint_every: int | None = None
    lora_rank: int | None = None
    lora_targets: Targets | None = None
    loss: Loss | None = None
    attention: AttentionName | None = None
    precision: Precision | None = None
    optimizer: OptimizerName | None = None
    memory_limit_bytes: int | None = None
    data: TrainingData | None = None
    packing: bool | None = None
    price_per_gpu_hour: float | None = None

    @property
    def budget_bytes(self) -> int:
        """What a plan may use of one device: what is free, or less where a limit is set."""
        free = self.cluster.accelerator.free_bytes
        return free if self.memory_limit_bytes is None else min(free, self.memory_limit_bytes)

    @property
    def methods(self) -> tuple[Method, ...]:
        """Methods open to choice, leanest first."""
        if self.recipe is not None:
            return (trained_by(self.recipe, self.method).method,)
        return METHODS if self.method is None else (self.method,)

    @property
    def compute(self) -> Precision:
        """What matrices are multiplied in: 16 bit where the device can do it at speed."""
        if self.precision is not None:
            return self.precision
        if self.cluster.accelerator.supports_bf16:
            return "bf16"
        return "fp32" if self.cluster.device == "cpu" else "fp16"


def global_batch_size(request: Request, recipe: Recipe) -> int:
    """As pinned, or the recipe's, rounded up until every rank gets an equal share."""
    if request.global_batch_size is not None:
        return request.global_batch_size
    share = request.cluster.world_size * (request.micro_batch_size or 1)
    return round_up(recipe.global_batch_size, share)


def workload(request: Request, method: Method) -> Workload:
    """The method's recipe with the user's settings put in."""
    recipe = load_recipe(method) if request.recipe is None else trained_by(request.recipe, method)
    model, positions = request.model.spec, request.model.spec.max_position_embeddings
    packing = bool(recipe.packing if request.packing is None else request.packing)
    fitting = sequence_length(recipe, request.data, positions=positions, packing=packing)
    changes: dict[str, object] = {
        "sequence_length": request.sequence_length or fitting,
        "packing": packing,
        "global_batch_size": global_batch_size(request, recipe),
        "loss": _loss(request, recipe),
        "attention": request.attention or recipe.attention,
    }
    if recipe.adapter is not None:
        changes["adapter"] = _adapter(request, recipe.adapter)
    if request.optimizer is not None:
        changes["optimizer"] = structs.replace(recipe.optimizer, name=request.optimizer)
    if request.data is not None:
        changes["data"] = request.data.section
    work = Workload(model=model, recipe=structs.replace(recipe, **changes), compute=request.compute)
    admitted = admitted_attention(work, request.cluster.device)
    if work.attention not in admitted:
        only = structs.replace(work.recipe, attention=admitted[0])
        work = structs.replace(work, recipe=only)
    return one_of_equals(work)


def _loss(request: Request, recipe: Recipe) -> Loss:
    """Without a GPU the stock one where none is asked for: trl's fused head has no Triton there,
    so it computes every logit twice and copies each tile seven times."""
    if isinstance(request.model.spec, TracedSpec):
        return request.model.spec.loss
    usual: Loss = "standard" if request.cluster.device == "cpu" else "fused"
    return request.loss or recipe.loss or usual


def open_choices(request: Request, own: Workload) -> tuple[Choice, ...]:
    """The losses and kinds of attention that neither options nor the recipe's file state."""
    recipe = request.recipe or load_recipe(own.method)
    traced = isinstance(own.model, TracedSpec)  # its loss is that of the traces
    return choices(
        own,
        request.cluster.device,
        loss_open=not traced and request.loss is None and recipe.loss is None,
        attention_open=request.attention is None and recipe.attention is None,
    )


def _adapter(request: Request, adapter: AdapterSection) -> AdapterSection:
    """The rank that was asked for, and targets that peft takes for what they are."""
    asked = request.lora_targets or adapter.target_modules
    targets = lora_targets(request.model.spec, asked)
    changes = {"target_modules": targets, "rank": request.lora_rank or adapter.rank}
    return structs.replace(adapter, **changes)


def allowed_series(request: Request, work: Workload) -> Iterator[Series]:
    """Every layout of the workload that agrees with what is pinned."""
    ranks = request.cluster.world_size
    for each in series(
        samples_per_rank=work.recipe.global_batch_size // ranks,
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


def describe_budget(request: Request) -> str:
    """For messages: ``23.45 GiB of each GPU``."""
    unit = "memory" if request.cluster.device == "cpu" else "each GPU"
    return f"{format_gib(request.budget_bytes)} GiB of {unit}"
