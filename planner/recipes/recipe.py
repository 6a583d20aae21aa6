"""A recipe: what is trained and how, apart from the machine."""

from planner.base.phrases import Phrase
from planner.base.preset_files import Source
from planner.base.strict_yaml import PositiveInt, Spec
from planner.plan.bounds import Epochs, Samples, SequenceLength
from planner.plan.data_section import DataSection
from planner.plan.schema import (
    AdapterSection,
    OptimizerSection,
    QuantizationSection,
    ScheduleSection,
    check_method,
)
from planner.plan.vocabulary import Attention, Loss, Method, Precision


class WrittenFor(Spec):
    """The machine's part of a recipe as its author had it, which a plan may choose anew."""

    micro_batch_size: Samples
    """Samples per forward pass on one device."""
    devices: PositiveInt = 1
    """Number of devices; with the global batch it says how many micro-batches were accumulated."""
    compute: Precision
    """The dtype in which matrices are multiplied."""
    activation_checkpointing: bool
    """Whether activations are recomputed in the backward pass."""


class Recipe(Spec):
    """Training settings with their source; a plan keeps them and adds the machine's part.

    Packing, attention and loss are open where a recipe has None.
    """

    noun = Phrase("a recipe")
    name: str
    """Name of the recipe."""
    source: Source
    model: str | None = None
    """Preset, hub id or directory of the model; None where the recipe is for any model."""
    method: Method
    """Method of fine-tuning."""
    adapter: AdapterSection | None = None
    quantization: QuantizationSection | None = None
    global_batch_size: Samples
    """Samples per optimizer step over all devices."""
    sequence_length: SequenceLength
    """Tokens per sample; longer samples are cut."""
    packing: bool | None = None
    """Whether several samples share a row of that length without seeing each other."""
    optimizer: OptimizerSection
    schedule: ScheduleSection
    epochs: Epochs
    """Passes over the data."""
    data: DataSection
    attention: Attention | None = None
    """Attention implementation, by transformers' name."""
    loss: Loss | None = None
    """Cross-entropy: trl's fused head, or the standard one."""
    written_for: WrittenFor | None = None

    def __post_init__(self) -> None:
        check_method(self.method, self.adapter, self.quantization, self.optimizer)
