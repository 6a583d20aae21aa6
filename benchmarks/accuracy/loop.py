"""A training loop of the field, step by step, on a timeline: one device or DDP."""

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.accuracy.sources import AdamStep
from benchmarks.accuracy.timeline import Timeline
from planner.allocation import quantized_sizes
from planner.autograd import GradientSink
from planner.buffers import CUBLAS_WORKSPACE_BYTES, CUBLAS_WORKSPACES
from planner.model_pass import ModelPass
from planner.numerics import Numerics
from planner.recipe import Batch, Workload
from planner.tensors import Parameter

STEPS = 2
"""The first makes the optimizer's states, the second is as all later ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Everything that decides which bytes a rank takes, and when."""

    workload: Workload
    batch: Batch
    numerics: Numerics
    checkpointing: bool
    micro_batches: int
    """In a step: the first makes the gradients, the others add to them."""
    buckets: bool
    """DDP's flat copies of the gradients."""
    moments: int
    states_on_device: bool
    adam_step: AdamStep

    def run(self, sink: GradientSink) -> ModelPass:
        return ModelPass(
            self.workload,
            self.batch,
            self.numerics,
            layers=self.workload.model.layers,
            checkpointing=self.checkpointing,
            sink=sink,
        )


def one_device(training: Training) -> Timeline:
    """Weights, then whole steps; every rank of DDP does the same."""
    line = Timeline()
    first = training.run("keep")
    later = training.run("add") if training.micro_batches > 1 else None
    hold(line, "weight", (w.elements * w.width for w in _in_order(first)))
    hold(line, "packed", quantized_sizes(training.workload))
    hold(line, "cublas", [CUBLAS_WORKSPACE_BYTES] * CUBLAS_WORKSPACES)
    trained = [w for w in first.weights.values() if w.trains]
    if training.buckets:
        hold(line, "bucket", [sum(w.elements * w.width for w in trained)])
    kept = [("first", id(storage)) for storage in first.tape.kept_gradients]
    for number in range(STEPS):
        line.log("first", first.tape.log)
        if later is not None:
            line.log("later", later.tape.log)
        step(line, training, [w.elements for w in trained], first_time=number == 0)
        for key in kept:
            line.give(key)
    return line


def _in_order(run: ModelPass) -> list[Parameter]:
    """As they are made: the model's own weights, then the adapters."""
    adapters = [w for name, w in run.weights.items() if ".lora_" in name]
    return [w for name, w in run.weights.items() if ".lora_" not in name] + adapters


def hold(line: Timeline, name: str, sizes: Iterable[int]) -> None:
    for number, size in enumerate(sizes):
        line.take((name, number), size)


def step(line: Timeline, training: Training, elements: list[int], *, first_time: bool) -> None:
    """AdamW: both moments, made in the first step, and what a step makes beside them."""
    width = training.moments // 2
    if training.states_on_device and first_time:
        hold(line, "moment", (n * width for n in elements for _ in range(2)))
    copies = {"fused": 0, "foreach": 1, "foreach, denominator apart": 2}[training.adam_step]
    made = [
        ("temporary", copy, number) for copy in range(copies) for number in range(len(elements))
    ]
    for key in made:
        line.take(key, elements[key[2]] * width)
    for key in made:
        line.give(key)
