"""FSDP as Lightning sets it up for LitGPT: one flat parameter per block, and one for the rest.

read: torch/distributed/fsdp/_runtime_utils.py and _flat_param.py at 2.13, and
lightning/fabric/strategies/fsdp.py at 2.1: FULL_SHARD, use_orig_params, backward prefetch of
the next block, activation checkpointing of every block.

* Weights are views of a flat parameter that needs a gradient where any of them trains; so a
  block with LoRA makes gradients of its frozen weights too, and keeps what those need.
* Gradients of the views wait until all are there and are joined into one.
* While gradients accumulate nothing is reduced: each rank keeps the whole of them. Without
  accumulation each flat gradient is reduced to the rank's shard as soon as it is there.
* The root's own weights stay gathered from its forward to the end of backward.
"""

from dataclasses import dataclass, field

from benchmarks.accuracy.litgpt.shape import Shape
from benchmarks.accuracy.litgpt.training import MicroBatch, TrainingRun
from benchmarks.accuracy.litgpt.weights import COMPUTE, Tuning, Weights
from planner.base.units import ceil_div
from planner.tape.tape import Tape
from planner.tape.tensors import Parameter, Tensor
from planner.workload.trained_tensors import TrainedTensor

ROOT = "root"


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Number of elements by unit and weight."""

    sizes: dict[str, dict[str, int]]
    training: frozenset[str]
    """Names of the units with a weight that trains."""
    trainable: tuple[int, ...]
    """Number of elements of each weight that trains."""

    def elements(self, unit: str) -> int:
        return sum(self.sizes[unit].values())


def units_of(shape: Shape, tuning: Tuning) -> Units:
    """Return the blocks and the root, from the weights that one short micro-batch uses."""
    run = TrainingRun(shape, tuning, MicroBatch(samples=1, length=2), steady=True)
    run.micro_batch()
    sizes: dict[str, dict[str, int]] = {}
    training: set[str] = set()
    for name, weight in run.weights.parameters.items():
        unit = _unit_of(name)
        sizes.setdefault(unit, {})[name] = weight.elements
        if weight.trains:
            training.add(unit)
    return Units(sizes=sizes, training=frozenset(training), trainable=tuple(run.weights.trainable))


def _unit_of(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "h" else ROOT


@dataclass(slots=True, kw_only=True)
class ShardedWeights(Weights):
    """Weights as views of gathered flat parameters."""

    tape: Tape
    units: Units
    reduced_over: int | None
    """Number of ranks over which gradients are reduced at once, or None while they accumulate."""
    views: dict[str, Tensor] = field(default_factory=dict)
    gathered: dict[str, Tensor] = field(default_factory=dict)
    gradient_shards: list[Tensor] = field(default_factory=list)

    def parameter(self, name: str, elements: int, *, adapts: bool = False) -> Tensor:
        return self.views[name]

    def gather(self, unit: str) -> None:
        """All-gather a unit into a new buffer, unless it is gathered already."""
        if unit in self.units.sizes and unit not in self.gathered:
            whole = self.units.elements(unit)
            self.gathered[unit] = self.tape.new(whole, COMPUTE, f"{unit}, gathered", "workspace")

    def use(self, unit: str) -> None:
        """Make views of the gathered flat parameter, each with its part of the split's node."""
        self.gather(unit)
        sizes, whole = self.units.sizes[unit], self.units.elements(unit)
        flat = Parameter(whole, COMPUTE, trains=unit in self.units.training)
        arrived: list[Tensor] = []

        def backward(gradient: Tensor) -> list[Tensor | None]:
            arrived.append(gradient)
            if len(arrived) < len(sizes):
                return [None]
            joined = self.tape.new(whole, COMPUTE, f"gradient of {unit}, joined")
            arrived.clear()
            self.gathered.pop(unit, None)
            return [self._reduced(joined)]

        whole_view = self.tape.record(
            Tensor(whole, COMPUTE, None, None), (flat,), (), lambda gradient: [gradient.viewed()]
        )
        for name, elements in sizes.items():
            view = Tensor(elements, COMPUTE, None, None)
            self.views[name] = self.tape.record(view, (whole_view,), (), backward)

    def _reduced(self, joined: Tensor) -> Tensor | None:
        if self.reduced_over is None:
            return joined
        shard = ceil_div(joined.elements, self.reduced_over)
        self.gradient_shards.append(
            self.tape.new(shard, COMPUTE, "shard of a gradient", "gradients")
        )
        return None

    def watched(self, x: Tensor, unit: str, next_unit: str) -> Tensor:
        """Return a block's output; when its gradient arrives, the block and the next one are
        gathered."""

        def backward(gradient: Tensor) -> list[Tensor | None]:
            self.gather(unit)
            self.gather(next_unit)
            return [gradient.viewed()]

        return self.tape.record(x.viewed(), (x,), (), backward)


class ShardedRun(TrainingRun):
    """A run of micro-batches on one of ``ranks``, with every block checkpointed."""

    def __init__(
        self,
        shape: Shape,
        tuning: Tuning,
        batch: MicroBatch,
        *,
        steady: bool,
        ranks: int,
        accumulates: bool,
    ) -> None:
        self.tape = Tape(sink="add" if steady else "keep")
        self._units = units_of(shape, tuning)
        self._ranks = ranks
        self._accumulates = accumulates
        self._sharded = ShardedWeights(
            tuning=tuning,
            tape=self.tape,
            units=self._units,
            reduced_over=None if accumulates else ranks,
        )
        self._start(shape, batch, self._sharded, steady=steady)

    def micro_batch(self) -> None:
        self._sharded.gradient_shards.clear()
        self._sharded.use(ROOT)
        super().micro_batch()
        self._sharded.gathered.clear()

    def step(self) -> None:
        """Take a step; if gradients accumulated, reducing them has freed more than the step
        takes."""
        if not self._accumulates:
            super().step()

    @property
    def trainable(self) -> list[int]:
        return list(self._units.trainable)

    @property
    def trained(self) -> list[TrainedTensor]:
        return [TrainedTensor((ceil_div(elements, self._ranks),)) for elements in self.trainable]

    @property
    def resident(self) -> list[int]:
        units = self._units
        shards = [ceil_div(units.elements(unit), self._ranks) * COMPUTE for unit in units.sizes]
        if not self._steady:
            return shards
        whole = [units.elements(unit) * COMPUTE for unit in units.training]
        return shards + self.states + (whole if self._accumulates else [])

    def _block(self, number: int, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        unit, weights = f"h.{number}", self._sharded
        weights.use(unit)

        def run(given: Tensor) -> Tensor:
            return self._gpt.block(number, given, tables)

        output = weights.watched(self.tape.checkpoint(run, x), unit, f"h.{number - 1}")
        del weights.gathered[unit]
        return output
