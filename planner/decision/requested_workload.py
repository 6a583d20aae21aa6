"""The workload and the layouts that a request allows, by method. No function has side effects."""

from collections.abc import Iterator

from msgspec import structs

from planner.base.units import round_up
from planner.datasets.training_data import TrainingData
from planner.decision.request import Request
from planner.models.adapter_targets import divided, expert_targets, lora_targets
from planner.models.traced_model import TracedSpec
from planner.plan.optimizer_presets import optimizers
from planner.plan.schema import AdapterSection, OptimizerSection, ScheduleSection
from planner.plan.vocabulary import (
    PURE,
    SHARES_SAMPLES,
    WITHOUT_STAGE,
    ZERO_STAGE,
    Loss,
    Method,
    Strategy,
)
from planner.recipes.recipe import Recipe
from planner.search.loss_attention_variants import Choice, admitted_attention, choices
from planner.workload.layout import PARTIAL, Series, series
from planner.workload.quantization import with_experts
from planner.workload.settings import settings_of
from planner.workload.workload import Workload


def workload(request: Request, method: Method) -> Workload:
    """Return the method's recipe on the request's model, with the settings the request makes."""
    recipe = request.recipe_for(method)
    model, positions = request.model.spec, request.model.spec.max_position_embeddings
    packing = bool(recipe.packing if request.packing is None else request.packing)
    fitting = _sequence_length(recipe, request.data, positions=positions, packing=packing)
    changes: dict[str, object] = {
        "sequence_length": request.sequence_length or _shareable(request, fitting),
        "packing": packing,
        "global_batch_size": _global_batch_size(request, recipe),
        "loss": _loss(request, recipe),
        "attention": request.attention or recipe.attention or "sdpa",
        "epochs": request.epochs or recipe.epochs,
        "optimizer": _optimizer(request, recipe.optimizer),
        "schedule": _schedule(request, recipe.schedule),
        "activation_offloading": bool(request.activation_offloading),
        "tiled_mlp": bool(request.tiled_mlp),
    }
    if recipe.adapter is not None:
        changes["adapter"] = _adapter(request, recipe.adapter)
    if recipe.quantization is not None:
        changes["quantization"] = with_experts(recipe.quantization, model)
    if request.data is not None:
        changes["data"] = request.data.section
    settings = structs.replace(settings_of(recipe), **changes)
    pure = request.precision == PURE
    work = Workload(model=model, settings=settings, compute=request.compute, pure=pure)
    admitted = admitted_attention(work, request.cluster.device)
    if work.attention not in admitted:
        work = work.with_settings(attention=admitted[0])
    return work


def open_choices(request: Request, own: Workload) -> tuple[Choice, ...]:
    """Return the losses and kinds of attention that neither options nor the recipe's file state;
    where layers are cut, the recipe's loss alone, since losses differ in what is sent, too."""
    recipe = request.recipe_for(own.method)
    traced = isinstance(own.model, TracedSpec)  # each loss would be traced
    return choices(
        own,
        request.cluster.device,
        loss_open=not traced
        and own.model.only_loss is None
        and request.loss is None
        and recipe.loss is None
        and request.strategy not in SHARES_SAMPLES,
        attention_open=request.attention is None and recipe.attention is None,
    )


def allowed_series(request: Request, work: Workload) -> Iterator[Series]:
    """Yield the layouts of the workload that the options set leave, the micro-batch varying."""
    for each in series(
        samples_per_rank=work.settings.global_batch_size // request.data_ranks,
        world_size=request.cluster.world_size,
        num_nodes=request.cluster.num_nodes,
        partial=_partial_checkpointing(request),
        offload=request.offload or "none",
        sequence_ranks=request.sequence_ranks,
        among=_pinned_among(request),
    ):
        if not _shards_as_set(request, each.strategy):
            continue
        if not _recomputes_as_set(request, each.checkpointing):
            continue
        if request.micro_batch_size is None:
            yield each
        elif request.micro_batch_size in each.micro_batch_sizes:
            yield structs.replace(each, micro_batch_sizes=(request.micro_batch_size,))


def _pinned_among(request: Request) -> tuple[Strategy, ...] | None:
    """Return the strategy that is searched only where it is asked for; None for those that are
    searched unasked."""
    if request.strategy in SHARES_SAMPLES and request.offload in (None, "none"):
        return (request.strategy,)
    return None


def _partial_checkpointing(request: Request) -> tuple[int, ...]:
    """Return every how many layers one may be recomputed, where not all are."""
    every, num_layers = request.checkpoint_every, request.model.spec.num_layers
    if every is not None:
        return (every,) if every > 1 else ()
    if isinstance(request.model.spec, TracedSpec):
        return ()  # each would be traced
    return tuple(every for every in PARTIAL if every <= num_layers)


def _shards_as_set(request: Request, strategy: Strategy) -> bool:
    """Return whether the options leave a strategy; the units that FSDP would make of a model
    without formulas are not known."""
    if strategy == "fsdp" and isinstance(request.model.spec, TracedSpec):
        return False
    if request.strategy is not None:
        return strategy == request.strategy
    of_a_stage = strategy not in WITHOUT_STAGE and ZERO_STAGE[strategy] == request.zero_stage
    return request.zero_stage is None or of_a_stage


def _recomputes_as_set(request: Request, checkpointing: int) -> bool:
    if checkpointing and not request.model.spec.can_recompute:
        return False
    if request.activation_offloading and not checkpointing:
        return False
    if request.checkpoint_every is not None:
        return checkpointing == request.checkpoint_every
    if request.activation_checkpointing is None:
        return True
    return checkpointing == int(request.activation_checkpointing)


def _shareable(request: Request, length: int) -> int:
    """Return a length that the GPUs of one sequence share equally: the next longer one, or the next
    shorter one where the model has no positions for it."""
    shared = request.sequence_parallel_size
    if shared is None:
        return length
    longer, positions = round_up(length, shared), request.model.spec.max_position_embeddings
    return longer if longer <= positions else longer - shared


def _global_batch_size(request: Request, recipe: Recipe) -> int:
    """Return the size that is set, or the recipe's rounded up until all that read samples have an
    equal share."""
    if request.global_batch_size is not None:
        return request.global_batch_size
    share = request.data_ranks * (request.micro_batch_size or 1)
    return round_up(recipe.global_batch_size, share)


def _loss(request: Request, recipe: Recipe) -> Loss:
    """Return the loss; without a GPU the stock one where none is asked for: trl's fused head has no
    Triton there, so it computes every logit twice and copies each tile seven times."""
    model = request.model.spec
    if model.only_loss is not None:
        return model.only_loss
    on_cpu = request.cluster.device == "cpu" and not isinstance(model, TracedSpec)
    return request.loss or recipe.loss or ("standard" if on_cpu else "fused")


def _optimizer(request: Request, optimizer: OptimizerSection) -> OptimizerSection:
    name = request.optimizer or optimizer.name
    return structs.replace(
        optimizer,
        name=name,
        learning_rate=request.learning_rate or optimizer.learning_rate,
        weight_decay=optimizer.weight_decay if optimizers()[name].decays else 0.0,
    )


def _schedule(request: Request, schedule: ScheduleSection) -> ScheduleSection:
    """Return the recipe's schedule, constant for an option's optimizer that averages weights
    instead."""
    if request.optimizer is None or not optimizers()[request.optimizer].averages:
        return schedule
    return structs.replace(schedule, kind="constant")


def _adapter(request: Request, adapter: AdapterSection) -> AdapterSection:
    """Return rank, dropout and beginning that were asked for, and targets that peft takes for what
    they are.

    A recipe's names that the model lacks are left out, as peft would. Its dropout is not that of
    adapters which are asked to begin as a part of the base: each step would run without a part of
    the model (SmolLM2-135M began at a loss of 11.7 with the recipe's 0.1, and at its own 8.1 with
    none).
    """
    model = request.model.spec
    asked = adapter.target_modules
    if request.lora_targets:
        asked, _tensors = divided(request.lora_targets)
    if isinstance(asked, tuple):
        known = {linear.name for linear, _ in model.adaptable_linears}
        asked = tuple(name for name in asked if name in known)
    targets = lora_targets(model, asked)
    init = request.lora_init or adapter.init
    dropout = request.lora_dropout
    if dropout is None:
        dropout = adapter.dropout if init in ("default", adapter.init) else 0.0
    rank = request.lora_rank or adapter.rank
    return structs.replace(
        adapter,
        target_modules=targets,
        target_parameters=adapted_experts(request, adapter),
        rank=rank,
        dropout=dropout,
        init=init,
    )


def adapted_experts(request: Request, adapter: AdapterSection) -> tuple[str, ...]:
    """Return the tensors of routed experts that get adapters: those asked for, or the recipe's."""
    asked = request.lora_targets
    tensors = divided(asked)[1] if asked else adapter.target_parameters
    return expert_targets(request.model.spec, tensors)


def _sequence_length(
    recipe: Recipe, data: TrainingData | None, *, positions: int, packing: bool
) -> int:
    """Return the tokens per sample that the data ask for, within the model's positions; without
    data the recipe's.

    Packed rows are as long as the recipe's at least: more samples find room in a longer one.
    """
    if data is None or data.known is None:
        return min(recipe.sequence_length, positions)
    limit = positions if data.longest is None else min(positions, data.longest)
    fitting = data.known.lengths.fitting_length(limit)
    return min(max(fitting, recipe.sequence_length), limit) if packing else fitting
