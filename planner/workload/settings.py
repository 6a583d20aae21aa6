"""Training settings of one workload: a recipe's, with everything open filled in."""

from planner.base.strict_yaml import Spec
from planner.plan.data_section import DataSection
from planner.plan.schema import (
    AdapterSection,
    OptimizerSection,
    QuantizationSection,
    ScheduleSection,
    refuse_adapter,
)
from planner.plan.vocabulary import AttentionName, Loss, Method
from planner.recipes.recipe import Recipe


class TrainingSettings(Spec):
    """What trains and how, apart from the model, the machine and the layout."""

    method: Method
    adapter: AdapterSection | None
    quantization: QuantizationSection | None
    global_batch_size: int
    """Samples per optimizer step over all ranks."""
    sequence_length: int
    """Tokens per sample, or per packed row."""
    packing: bool
    """Whether several samples share a row without attending to each other."""
    optimizer: OptimizerSection
    schedule: ScheduleSection
    epochs: float
    data: DataSection
    attention: AttentionName
    """The implementation asked for; a model may admit only another (``Workload.attention``)."""
    loss: Loss
    activation_offloading: bool = False
    """Whether the inputs of recomputed layers wait in host memory for the backward pass."""
    tiled_mlp: bool = False
    """Whether each MLP runs tile by tile over the tokens, again in the backward pass."""

    def __post_init__(self) -> None:
        refuse_adapter(self.adapter, self.quantization)


def settings_of(recipe: Recipe) -> TrainingSettings:
    """Return the recipe's settings, with the usual value for every setting it leaves out."""
    return TrainingSettings(
        method=recipe.method,
        adapter=recipe.adapter,
        quantization=recipe.quantization,
        global_batch_size=recipe.global_batch_size,
        sequence_length=recipe.sequence_length,
        packing=bool(recipe.packing),
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        epochs=recipe.epochs,
        data=recipe.data,
        attention=recipe.attention or "sdpa",
        loss=recipe.loss or "fused",
    )
