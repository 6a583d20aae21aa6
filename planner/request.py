"""What the user asked for, checked, and the workloads and layouts it allows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from planner.adapter_targets import lora_targets, misunderstood_targets
from planner.errors import InvalidRequestError
from planner.gpu import Cluster
from planner.plan import (
    METHODS,
    OFFLOADS_FROM,
    AdapterSection,
    Method,
    Offload,
    OptimizerName,
    Precision,
    ZeroStage,
)
from planner.presets import ModelPreset
from planner.recipe import Recipe, Workload, load_recipe
from planner.search import SearchResult, search
from planner.strategy import PARTIAL, Layout, layouts
from planner.traced_model import TracedSpec
from planner.training_data import TrainingData, sequence_length
from planner.units import format_gib, round_up

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
    """Nothing where it is open: then it is a last resort (planner/choose.py)."""
    activation_checkpointing: bool | None = None
    checkpoint_every: int | None = None
    lora_rank: int | None = None
    optimizer: OptimizerName | None = None
    memory_limit_bytes: int | None = None
    data: TrainingData | None = None
    packing: bool | None = None

    @property
    def budget_bytes(self) -> int:
        """What a plan may use of one device: what is free, or less where a limit is set."""
        free = self.cluster.accelerator.free_bytes
        return free if self.memory_limit_bytes is None else min(free, self.memory_limit_bytes)

    @property
    def methods(self) -> tuple[Method, ...]:
        """Methods open to choice, leanest first."""
        if self.recipe is not None:
            return (self.recipe.method,)
        return METHODS if self.method is None else (self.method,)

    @property
    def compute(self) -> Precision:
        """What matrices are multiplied in: 16 bit where the device can do it at speed."""
        if self.cluster.accelerator.supports_bf16:
            return "bf16"
        return "fp32" if self.cluster.device == "cpu" else "fp16"


def check(request: Request) -> None:
    """Raises where options contradict each other, the model or the machine."""
    ranks = request.cluster.world_size
    if request.recipe is not None and request.method not in (None, request.recipe.method):
        raise InvalidRequestError(
            f"--recipe {request.recipe.name} trains by {request.recipe.method}, "
            f"not --method {request.method}: leave one of the two out"
        )
    _check_offload(request)
    if request.zero_stage and ranks == 1 and request.offload in (None, "none"):
        raise InvalidRequestError(
            f"--zero-stage {request.zero_stage} shards over several GPUs and there is one: "
            "leave it out, or name more with --gpus"
        )
    if request.lora_rank is not None and request.methods == ("full",):
        raise InvalidRequestError("--lora-rank has no meaning with full fine-tuning: leave it out")
    _check_checkpointing(request)
    _check_targets(request)
    _check_length(request)
    _check_batch(request, ranks)


def _check_checkpointing(request: Request) -> None:
    every, num_layers = request.checkpoint_every, request.model.spec.num_layers
    if every is None:
        return
    if request.activation_checkpointing is False:
        raise InvalidRequestError(
            f"--checkpoint-every {every} recomputes activations and --no-activation-checkpointing "
            "keeps them: leave one of the two out"
        )
    if every > num_layers:
        raise InvalidRequestError(
            f"--checkpoint-every {every} is beyond the {num_layers} layers of "
            f"{request.model.name}: choose at most {num_layers}"
        )


def _check_offload(request: Request) -> None:
    offload, stage = request.offload or "none", request.zero_stage
    if offload != "none" and request.cluster.device == "cpu":
        raise InvalidRequestError(
            f"--offload {offload} moves what a GPU holds to host memory, and there is no GPU: "
            "leave it out, or name a card with --gpus"
        )
    if stage is not None and stage not in OFFLOADS_FROM[offload]:
        stages = " or ".join(map(str, OFFLOADS_FROM[offload]))
        raise InvalidRequestError(
            f"--offload {offload} does not go with --zero-stage {stage}: it needs {stages}"
        )


def _check_targets(request: Request) -> None:
    """peft takes some names for the fused experts, whose adapters are not planned."""
    adapter = request.recipe.adapter if request.recipe is not None else None
    if adapter is None or request.recipe is None:
        return
    names = misunderstood_targets(request.model.spec, adapter.target_modules)
    if names:
        raise InvalidRequestError(
            f"--recipe {request.recipe.name}: peft takes {', '.join(names)} of "
            f"{request.model.name} for its fused experts, whose adapters are not planned: "
            "leave them out of target_modules"
        )


def _check_length(request: Request) -> None:
    longest = request.model.spec.max_position_embeddings
    if request.sequence_length is not None and request.sequence_length > longest:
        raise InvalidRequestError(
            f"--sequence-length {request.sequence_length} is beyond the {longest} positions "
            f"of {request.model.name}: choose at most {longest}"
        )


def _check_batch(request: Request, ranks: int) -> None:
    total, micro = request.global_batch_size, request.micro_batch_size
    if total is not None and total % ranks:
        below, above = total - total % ranks, round_up(total, ranks)
        choices = f"{below} or {above}" if below else f"{above}"
        raise InvalidRequestError(
            f"--global-batch-size {total} cannot be shared equally by {ranks} GPUs: "
            f"choose a multiple of {ranks}, such as {choices}"
        )
    if micro is not None and total is not None and total % (micro * ranks):
        raise InvalidRequestError(
            f"--global-batch-size {total} is not a multiple of --micro-batch-size {micro} "
            f"times {ranks} GPU{'s' if ranks > 1 else ''}: "
            f"choose {round_up(total, micro * ranks)}, or another micro-batch size"
        )


def global_batch_size(request: Request, recipe: Recipe) -> int:
    """As pinned, or the recipe's, rounded up until every rank gets an equal share."""
    if request.global_batch_size is not None:
        return request.global_batch_size
    share = request.cluster.world_size * (request.micro_batch_size or 1)
    return round_up(recipe.global_batch_size, share)


def workload(request: Request, method: Method) -> Workload:
    """The method's recipe with the user's settings put in.

    Without a GPU the loss is the stock one: trl's fused head has no Triton there, so it
    computes every logit twice and copies each tile seven times; and latent attention is eager,
    since no fused kernel takes values of another width.
    """
    recipe = request.recipe or load_recipe(method)
    model, positions = request.model.spec, request.model.spec.max_position_embeddings
    packing = recipe.packing if request.packing is None else request.packing
    fitting = sequence_length(recipe, request.data, positions=positions, packing=packing)
    changes: dict[str, object] = {
        "sequence_length": request.sequence_length or fitting,
        "packing": packing,
        "global_batch_size": global_batch_size(request, recipe),
    }
    if isinstance(model, TracedSpec):
        changes |= {"loss": model.loss, "attention": model.attention}
    if request.cluster.device == "cpu":
        changes["loss"] = "standard"
        if model.latent is not None:
            changes["attention"] = "eager"
    if recipe.adapter is not None:
        changes["adapter"] = _adapter(request, recipe.adapter)
    if request.optimizer is not None:
        changes["optimizer"] = recipe.optimizer.model_copy(update={"name": request.optimizer})
    if request.data is not None:
        changes["data"] = request.data.section
    return Workload(
        model=request.model.spec,
        recipe=recipe.model_copy(update=changes),
        compute=request.compute,
    )


def _adapter(request: Request, adapter: AdapterSection) -> AdapterSection:
    """The rank that was asked for, and targets that peft takes for what they are."""
    targets = lora_targets(request.model.spec, adapter.target_modules)
    changes = {"target_modules": targets, "rank": request.lora_rank or adapter.rank}
    return AdapterSection(**{**adapter.model_dump(), **changes})


def allowed_layouts(request: Request, work: Workload) -> Iterator[Layout]:
    """Every layout of the workload that agrees with what is pinned."""
    ranks = request.cluster.world_size
    for layout in layouts(
        samples_per_rank=work.recipe.global_batch_size // ranks,
        world_size=ranks,
        partial=_partial_checkpointing(request),
        offload=request.offload or "none",
    ):
        if request.micro_batch_size not in (None, layout.micro_batch_size):
            continue
        if request.zero_stage not in (None, layout.zero_stage):
            continue
        if not _recomputes_as_pinned(request, layout):
            continue
        yield layout


def _partial_checkpointing(request: Request) -> tuple[int, ...]:
    """Every how many layers one may be recomputed, where not all are."""
    pinned, num_layers = request.checkpoint_every, request.model.spec.num_layers
    if pinned is not None:
        return (pinned,) if pinned > 1 else ()
    if isinstance(request.model.spec, TracedSpec):
        return ()  # each would be traced
    return tuple(every for every in PARTIAL if every <= num_layers)


def _recomputes_as_pinned(request: Request, layout: Layout) -> bool:
    if request.checkpoint_every is not None:
        return layout.checkpointing == request.checkpoint_every
    if request.activation_checkpointing is None:
        return True
    return layout.checkpointing == int(request.activation_checkpointing)


Results = dict[Method, SearchResult]


def search_method(request: Request, method: Method) -> SearchResult:
    """Every candidate of one method for a request."""
    work = workload(request, method)
    return search(
        work,
        request.cluster,
        allowed_layouts(request, work),
        budget_bytes=request.budget_bytes,
        strategy_pinned=request.zero_stage is not None or request.offload is not None,
    )


def search_methods(request: Request) -> Results:
    """Every method open to choice that the pinned options leave a layout to."""
    results = {method: search_method(request, method) for method in request.methods}
    possible = {method: result for method, result in results.items() if result.leanest}
    if not possible:
        method, result = next(iter(results.items()))
        reason = "; ".join(result.rejected) or "no layout agrees with all that is pinned"
        if request.zero_stage is None and request.offload in (None, "none"):
            raise InvalidRequestError(
                f"{method} does not go with {request.model.name}: {reason}. Take another --method"
            )
        raise InvalidRequestError(
            f"{_pinned_layout(request)} does not go with {method}: {reason}. "
            "Leave it out, or take another --method"
        )
    return possible


def _pinned_layout(request: Request) -> str:
    """The options that rules speak of, as they were given."""
    given = {
        "--zero-stage": request.zero_stage,
        "--offload": request.offload,
        "--optimizer": request.optimizer,
    }
    options = [f"{option} {value}" for option, value in given.items() if value is not None]
    return " with ".join(options) or "this machine"


def describe_budget(request: Request) -> str:
    """For messages: ``23.45 GiB of each GPU``."""
    unit = "memory" if request.cluster.device == "cpu" else "each GPU"
    return f"{format_gib(request.budget_bytes)} GiB of {unit}"
