"""A recipe: what is trained and how, apart from the machine."""

from planner.base.preset_files import Source
from planner.base.strict_yaml import PositiveInt, Spec
from planner.plan.bounds import Epochs, Samples, SequenceLength
from planner.plan.data_section import DataSection
from planner.plan.schema import (
    AdapterSection,
    OptimizerSection,
    QuantizationSection,
    ScheduleSection,
    refuse_dora_on_int8,
)
from planner.plan.vocabulary import Attention, Loss, Method, Precision


class WrittenFor(Spec):
    """The machine's part of a recipe as its author had it, which a plan may choose anew."""

    micro_batch_size: Samples
    devices: PositiveInt = 1
    """Number of devices; with the global batch it says how many micro-batches were accumulated."""
    compute: Precision
    activation_checkpointing: bool


class Recipe(Spec):
    """Training settings with their source; a plan keeps them and adds the machine's part.

    Packing, attention and loss are open where a recipe has None.
    """

    name: str
    source: Source
    model: str | None = None
    """Preset, hub id or directory of the model; None where the recipe is for any model."""
    method: Method
    adapter: AdapterSection | None = None
    quantization: QuantizationSection | None = None
    global_batch_size: Samples
    sequence_length: SequenceLength
    packing: bool | None = None
    """Whether several samples share a row of that length without seeing each other."""
    optimizer: OptimizerSection
    schedule: ScheduleSection
    epochs: Epochs
    data: DataSection
    attention: Attention | None = None
    loss: Loss | None = None
    written_for: WrittenFor | None = None

    def __post_init__(self) -> None:
        refuse_dora_on_int8(self.adapter, self.quantization)
