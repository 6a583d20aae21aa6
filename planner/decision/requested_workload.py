"""The workload that a request asks for, by method."""

from msgspec import structs

from planner.base.units import round_up
from planner.datasets.training_data import TrainingData
from planner.decision.request import Request
from planner.models.adapter_targets import lora_targets
from planner.models.traced_model import TracedSpec
from planner.plan.schema import AdapterSection
from planner.plan.vocabulary import Loss, Method
from planner.recipes.load_recipe import load_recipe, trained_by
from planner.recipes.recipe import Recipe
from planner.search.loss_attention_variants import Choice, admitted_attention, choices
from planner.workload.settings import settings_of
from planner.workload.workload import Workload


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
        "attention": request.attention or recipe.attention or "sdpa",
    }
    if recipe.adapter is not None:
        changes["adapter"] = _adapter(request, recipe.adapter)
    if request.optimizer is not None:
        changes["optimizer"] = structs.replace(recipe.optimizer, name=request.optimizer)
    if request.data is not None:
        changes["data"] = request.data.section
    settings = structs.replace(settings_of(recipe), **changes)
    work = Workload(model=model, settings=settings, compute=request.compute)
    admitted = admitted_attention(work, request.cluster.device)
    if work.attention not in admitted:
        work = work.with_settings(attention=admitted[0])
    return work


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


def sequence_length(
    recipe: Recipe, data: TrainingData | None, *, positions: int, packing: bool
) -> int:
    """What the data ask for, within the model's positions; without data the recipe's.

    Packed rows are as long as the recipe's at least: more samples find room in a longer one.
    """
    if data is None or data.known is None:
        return min(recipe.sequence_length, positions)
    limit = positions if data.longest is None else min(positions, data.longest)
    fitting = data.known.lengths.fitting_length(limit)
    return min(max(fitting, recipe.sequence_length), limit) if packing else fitting
