"""A timeline of another project's training loop, step by step, on one device or under DDP."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.accuracy.sources import HoldsOutput
from benchmarks.accuracy.timeline import Timeline
from planner.allocator.held_sizes import quantized_sizes, state_sizes
from planner.forward.decoder import Decoder
from planner.forward.model_pass import ModelPass, passed_layers
from planner.memory.optimizer_step import OptimizerStep
from planner.memory.workspaces import cublas_workspaces
from planner.plan.optimizer_presets import optimizers
from planner.tape.tape import GradientSink, Tape
from planner.tape.tensors import StorageEvent, allocated
from planner.workload.dtypes import Numerics
from planner.workload.trained_tensors import TrainedTensor
from planner.workload.workload import Batch, Workload

STEPS = 2
"""Number of steps: the first makes the optimizer's states, the second is like all later ones."""
FIRST = 0
"""Number of a step's first micro-batch, whose gradients are kept; those of later ones are added to
them."""
CONSTANTS = 3
"""Number of tensors of a packed matrix: its codes, its scales, and what the scales need."""


class DtypeGroup(NamedTuple):
    """Trained tensors of one width in bytes, which an optimizer takes together."""

    tensors: Sequence[TrainedTensor]
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """All settings that decide which bytes a rank takes, and when."""

    workload: Workload
    batch: Batch
    numerics: Numerics
    checkpointing: bool
    micro_batches: int
    """Number of micro-batches per step: the first makes the gradients, the others add to them."""
    buckets: bool
    """Whether DDP keeps flat copies of the gradients."""
    decoder: type[Decoder]
    held_beside: tuple[int, ...]
    """Bytes of weights that the pass does not make: codes of matrices, originals of trained
    copies."""
    trained: tuple[DtypeGroup, ...]
    """Tensors that the optimizer gets."""
    denominator_apart: bool
    """See :class:`~benchmarks.accuracy.sources.SourceConventions`."""
    holds_output: HoldsOutput
    """Event until which a variable of the loop holds the model's output."""
    steps_in_backward: bool = False
    """Whether each parameter is updated when its gradient arrives, which is then freed."""
    model_pass: type[ModelPass] = ModelPass
    """Code of the model."""
    tape: type[Tape] = Tape
    """Tape that checkpoints layers as the trainer does."""

    def run(self, sink: GradientSink) -> ModelPass:
        return self.model_pass(
            self.workload,
            self.batch,
            self.numerics,
            layers=passed_layers(self.workload.model, 1 if self.checkpointing else 0),
            sink=sink,
            decoder=self.decoder,
            tape=self.tape,
        )


def one_device(training: Training) -> Timeline:
    """Return the timeline of one device or of one rank of DDP: weights, then whole steps."""
    line = Timeline()
    first = training.run("reduce" if training.steps_in_backward else "keep")
    later = training.run("add") if training.micro_batches > 1 else None
    load(line, training, first)
    hold(line, "cublas", cublas_workspaces(None))
    trained = [w for w in first.weights.values() if w.trains]
    if training.buckets:
        hold(line, "bucket", [sum(w.elements * w.width for w in trained)])
    for number in range(STEPS):
        micro_batches(line, training, [first, *([later] if later else [])], number)
        step(line, training, training.trained, first_time=number == 0)
        line.mark("update")
        if training.holds_output == "the step":
            line.log((FIRST, number), first.tape.log[first.backward_ends :])
        for storage in first.tape.kept_gradients:
            line.give(((FIRST, number), id(storage)))
        line.mark("optimizer step")
    return line


def micro_batches(
    line: Timeline, training: Training, passes: Sequence[ModelPass], number: int
) -> None:
    """Run the forward and backward passes of one step, each with the output that is still held."""
    for place, run in enumerate(passes):
        loss, end = run.casts_gone[-1], run.backward_ends
        line.log((place, number), run.tape.log[:loss])
        if number > 0 and place == FIRST and training.holds_output == "the next forward":
            line.log((place, number - 1), run.tape.log[end:])
        line.mark("forward")
        line.log((place, number), run.tape.log[loss:end])
        line.mark("backward")
        if place != FIRST or training.holds_output == "backward":
            line.log((place, number), run.tape.log[end:])


def load(line: Timeline, training: Training, run: ModelPass) -> None:
    """Load the model's weights, then the adapters. A matrix arrives whole and is packed; what is
    not packed arrives in 16 bit, and is cast if it is kept in fp32."""
    workload, numerics = training.workload, training.numerics
    own = {name: w for name, w in run.weights.items() if ".lora_" not in name}
    adapters = [w.elements * w.width for name, w in run.weights.items() if ".lora_" in name]
    arrives = min(numerics.outside, numerics.compute) if workload.method != "full" else None
    hold(line, "weight", (w.elements * (arrives or w.width) for w in own.values()))
    pack(line, workload, numerics.compute)
    hold(line, "other", training.held_beside)
    for number, w in enumerate(own.values()):
        if arrives is not None and w.width != arrives:
            line.take(("cast", number), w.elements * w.width)
            line.give(("weight", number))
    line.mark("load")
    hold(line, "adapter", adapters)
    line.mark("adapters")


def pack(line: Timeline, workload: Workload, width: int) -> None:
    """Make codes and constants of each matrix while the whole matrix is there.

    read: bitsandbytes/nn/modules.py, Params4bit._quantize, and functional.py, quantize_4bit.
    """
    if workload.settings.quantization is None:
        return
    sizes = iter(quantized_sizes(workload))
    layers = workload.model.layers
    for number, matrix in enumerate(m for kind in layers for m in workload.packed(kind)):
        line.take("whole", matrix.weight_params * width)
        for part in range(CONSTANTS):
            line.take(("packed", number, part), next(sizes))
        line.give("whole")


def hold(line: Timeline, name: Hashable, sizes: Iterable[int]) -> None:
    for number, size in enumerate(sizes):
        line.take((name, number), size)


def step(
    line: Timeline, training: Training, groups: Sequence[DtypeGroup], *, first_time: bool
) -> None:
    """Take the optimizer's step: its states, which the first one makes, and what it makes beside
    them."""
    settings = training.workload.settings.optimizer
    optimizer = optimizers()[settings.name]
    if first_time:
        for group in groups:
            sizes = state_sizes(optimizer, group.tensors, width=group.width, device="cuda")
            hold(line, ("state", group.width), sizes)
    if training.denominator_apart:
        line.log("step", _adamw_before_2_1(groups))
        return
    for tensors, width in groups:
        decay = settings.weight_decay
        made = OptimizerStep(optimizer, tensors, width=width, weight_decay=decay, device="cuda")
        line.log("step", made.log)


def _adamw_before_2_1(groups: Sequence[DtypeGroup]) -> list[StorageEvent]:
    """torch/optim/adamw.py at 2.0, _multi_tensor_adamw: variables live until the next dtype."""
    log: list[StorageEvent] = []
    _roots, _denominators = [], []
    for tensors, width in groups:
        sizes = [tensor.elements * width for tensor in tensors]
        _roots = [allocated(log, size, "workspace", "root of the variance") for size in sizes]
        _denominators = [allocated(log, size, "workspace", "denominator") for size in sizes]
    del _roots, _denominators
    return log
