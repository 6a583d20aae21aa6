"""What is trained and how, apart from the machine: the settings that a recipe file holds."""

from planner.base.preset_files import Source
from planner.base.strict_yaml import PositiveFloat, PositiveInt, Spec
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
    """The machine's part as a recipe's author had it: what a plan may choose anew."""

    micro_batch_size: PositiveInt
    devices: PositiveInt = 1
    """Beside the recipe's global batch the two say how many micro-batches were accumulated."""
    compute: Precision
    activation_checkpointing: bool


class Recipe(Spec):
    """Training settings with their source. A plan keeps them and adds the machine's part.

    What a recipe says nothing of, its packing, attention or loss, is open.
    """

    name: str
    source: Source
    model: str | None = None
    """Preset, hub id or directory; nothing where the recipe goes with any model."""
    method: Method
    adapter: AdapterSection | None = None
    quantization: QuantizationSection | None = None
    global_batch_size: PositiveInt
    sequence_length: PositiveInt
    packing: bool | None = None
    """Several samples in a row of that length, which do not see each other."""
    optimizer: OptimizerSection
    schedule: ScheduleSection
    epochs: PositiveFloat
    data: DataSection
    attention: Attention | None = None
    loss: Loss | None = None
    written_for: WrittenFor | None = None

    def __post_init__(self) -> None:
        refuse_dora_on_int8(self.adapter, self.quantization)
