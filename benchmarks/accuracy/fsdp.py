"""A timeline of a training loop under PyTorch's FullyShardedDataParallel.

read: torch/distributed/fsdp/_runtime_utils.py and _flat_param.py at 2.2 and 2.13. Every layer is a
unit, and what is outside layers belongs to the root unit. A unit is gathered in a separate stream
before its forward and freed after it; during its backward the unit before it is gathered too,
unless a checkpoint is around the unit. The root stays gathered from the start of forward to the end
of backward. The host frees a block long before the device has finished with it, so the next unit
needs another block. The gradients of a unit wait for each other, are joined end to end, and are
reduced to the rank's shard. The matrices of adapters are units of their own.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from benchmarks.accuracy.loop import STEPS, DtypeGroup, Training, hold, step
from benchmarks.accuracy.reentrant import ReentrantTape
from benchmarks.accuracy.sources import ShardingConventions
from benchmarks.accuracy.timeline import GATHER, REDUCE, Timeline
from planner.allocator.held_sizes import quantized_sizes
from planner.base.units import ceil_div
from planner.forward.model_pass import ModelPass
from planner.memory.workspaces import cublas_workspaces
from planner.models.layer_kinds import LayerKind
from planner.workload.trained_tensors import TrainedTensor
from planner.workload.workload import Workload

ROOT = -1


def fully_sharded(training: Training, sharding: ShardingConventions, ranks: int) -> Timeline:
    """Return the timeline of whole steps on one of ``ranks``."""
    job = _Job(training, sharding, ranks, Timeline(), training.run("keep"))
    job.states()
    for number in range(STEPS):
        job.drop_gradients()
        job.forward()
        job.backward()
        job.line.synchronize()
        if not sharding.on_host:
            step(job.line, training, [job.trained_shards], first_time=number == 0)
        if not sharding.use_orig_params:
            job.drop_gradients()
    return job.line


@dataclass(slots=True)
class _Job:
    training: Training
    sharding: ShardingConventions
    ranks: int
    line: Timeline
    run: ModelPass
    gradients: list[Hashable] = field(default_factory=list)
    """Keys of the gradient shards that wait for the optimizer."""

    @property
    def workload(self) -> Workload:
        return self.training.workload

    @property
    def trains_units(self) -> bool:
        return self.workload.method == "full"

    @property
    def units(self) -> list[int]:
        """Gathered elements of each layer, then of the root; a packed byte counts as half of a
        16-bit element."""
        model = self.workload.model
        layers = [model.layer_params(kind) for kind in model.layers]
        if self.workload.settings.quantization is not None:
            packed = [sum(m.weight_params for m in self.workload.packed(k)) for k in model.layers]
            layers = [n - m + m // 4 for n, m in zip(layers, packed, strict=True)]
        return [*layers, model.hidden_size + model.embedding_params + model.head_params]

    @property
    def adapters(self) -> list[int]:
        return [w.elements for name, w in self.run.weights.items() if ".lora_" in name]

    @property
    def trained_shards(self) -> DtypeGroup:
        """The rank's part of each unit that trains, as the optimizer has it."""
        trained = self.units if self.trains_units else self.adapters
        whole = [[n] for n in trained]
        if self.sharding.use_orig_params and self.trains_units:
            whole = self.tensors()
        shards = [
            TrainedTensor((n,))
            for tensors in whole
            for n in first_elements(tensors, ceil_div(sum(tensors), self.ranks))
        ]
        return DtypeGroup(shards, self.sharding.kept_in)

    def tensors(self) -> list[list[int]]:
        """Return the elements of each unit's parameters in their order: matrices, then norms."""
        model = self.workload.model
        outside = [model.embedding_params, model.hidden_size, model.head_params]
        layers = [[*self.parts(k), model.layer_norm_params(k)] for k in model.layers]
        return [*layers, [n for n in outside if n]]

    def states(self) -> None:
        """Take what stays: shards, the constants of packed weights, which are not sharded, and
        cuBLAS' workspaces."""
        line, numerics = self.line, self.training.numerics
        kept = self.sharding.kept_in if self.trains_units else numerics.frozen
        self.wrap(kept)
        if not self.sharding.on_host:
            width = self.sharding.kept_in
            hold(line, "adapter", (ceil_div(n, self.ranks) * width for n in self.adapters))
        hold(line, "constant", packed_constants(self.workload))
        hold(line, "cublas", cublas_workspaces(None))

    def wrap(self, width: int) -> None:
        """Take parameters, the same joined end to end, and the rank's shard, unit by unit, the root
        last.

        read: _init_utils.py, _init_param_handle_from_module; _flat_param.py, flatten_tensors
        and shard.
        """
        line, model = self.line, self.workload.model
        parts = [self.parts(kind) for kind in model.layers]
        parts.append([model.embedding_params, model.head_params])
        for unit, (whole, tensors) in enumerate(zip(self.units, parts, strict=True)):
            hold(line, "parameter", (n * width for n in tensors))
            line.take("flat", whole * width)
            for number in range(len(tensors)):
                line.give(("parameter", number))
            if not self.sharding.on_host:
                line.take(("rank's part", unit), ceil_div(whole, self.ranks) * width)
            line.give("flat")

    def parts(self, kind: LayerKind) -> list[int]:
        """Return the elements of a layer's matrices, all experts counted as one."""
        if self.workload.settings.quantization is not None:
            return [m.weight_params // 4 for m in self.workload.packed(kind)]
        model = self.workload.model
        experts = model.expert_params(kind)
        return [m.weight_params for m in model.linears(kind)] + ([experts] if experts else [])

    def gather(self, unit: int) -> None:
        """Gather a unit, after its shard in the gathered dtype if that is kept in another dtype or
        on the host."""
        if not self.sharding.shards:
            return
        elements, width = self.units[unit], self.training.numerics.frozen
        shard = self.sharding.on_host or (self.trains_units and self.sharding.kept_in != width)
        if shard:
            self.line.take(("shard", unit), ceil_div(elements, self.ranks) * width, GATHER)
        self.line.take(("unit", unit), elements * width, GATHER)
        if shard:
            self.line.give(("shard", unit))

    def release(self, unit: int) -> None:
        if self.sharding.shards:
            self.line.give(("unit", unit))

    def forward(self) -> None:
        """Run each layer between its gathering and its release; then the head and the loss, and
        their backward up to the last layer."""
        places = [place for _, place in self.run.tape.borders]
        self.gather(ROOT)
        self.log(0, places[0])
        for number, (start, stop) in enumerate(pairwise(places)):
            self.gather(number)
            self.log(start, stop)
            self.release(number)
        self.log(places[-1], self.run.tape.passed[0])

    def backward(self) -> None:
        passed = self.run.tape.passed
        last = len(self.workload.model.layers) - 1
        if not self.sharding.checkpoint_around_unit:
            self.gather(last)
        for number, (start, stop) in zip(range(last, -1, -1), pairwise(passed), strict=True):
            self.differentiate(number, start, stop)
            self.reduce(number, range(start, stop))
            self.release(number)
        end = len(self.run.tape.log)
        self.log(passed[-1], end)
        self.reduce(
            ROOT, [*range(self.run.tape.borders[-1][1], passed[0]), *range(passed[-1], end)]
        )
        self.release(ROOT)

    def differentiate(self, unit: int, start: int, stop: int) -> None:
        """Gather the unit before this one, which is there already, and run this one again and its
        backward. With a checkpoint around it, gather this one to run it again, free it, and gather
        it for its backward."""
        if not self.sharding.checkpoint_around_unit:
            if unit > 0:
                self.gather(unit - 1)
            self.log(start, stop)
            return
        tape = self.run.tape
        assert isinstance(tape, ReentrantTape)
        middle = next(place for place in tape.ran_again if start <= place <= stop)
        self.gather(unit)
        self.log(start, middle)
        self.release(unit)
        self.gather(unit)
        self.log(middle, stop)

    def log(self, start: int, stop: int) -> None:
        self.line.log("pass", self.run.tape.log[start:stop])

    def reduce(self, unit: int, places: Iterable[int]) -> None:
        """Join the gradients that arrived at ``places``, and reduce them to a shard."""
        made = gradients_by_place(self.run)
        arrived = [made[place] for place in places if place in made]
        if not arrived:
            return
        if not self.sharding.shards:
            self.gradients += [("pass", key) for key, _ in arrived]
            return
        if not self.trains_units:
            width = self.training.numerics.gradient
            for number, (key, size) in enumerate(arrived):
                self.keep_shard((unit, number), size // width)
                self.line.give(("pass", key))
            return
        flat = ("flat", unit)
        self.line.take(flat, self.units[unit] * self.training.numerics.gradient)
        for key, _ in arrived:
            self.line.give(("pass", key))
        self.keep_shard((unit, 0), self.units[unit])
        self.line.give(flat)

    def keep_shard(self, name: Hashable, elements: int) -> None:
        """Keep the rank's shard of a gradient, which may be reduced in another dtype."""
        line, shard = self.line, ceil_div(elements, self.ranks)
        reduced, kept = self.sharding.reduced_in, self.sharding.kept_in
        if reduced != self.training.numerics.gradient:
            line.take(("wide", name), elements * reduced, REDUCE)
        line.take(("reduced", name), shard * reduced, REDUCE)
        if reduced != self.training.numerics.gradient:
            line.give(("wide", name))
        if kept != reduced:
            line.take(("gradient", name), shard * kept, REDUCE)
            line.give(("reduced", name))
        final: Hashable = ("gradient" if kept != reduced else "reduced", name)
        if self.sharding.on_host:
            line.give(final)
        else:
            self.gradients.append(final)

    def drop_gradients(self) -> None:
        for key in self.gradients:
            self.line.give(key)
        self.gradients.clear()


def first_elements(tensors: Iterable[int], elements: int) -> list[int]:
    """Return how many of the first ``elements`` each of the tensors has, up to the last that has
    any."""
    found = []
    for tensor in tensors:
        part = min(tensor, elements)
        if part:
            found.append(part)
        elements -= part
    return found


def gradients_by_place(run: ModelPass) -> dict[int, tuple[int, int]]:
    """Return key and bytes of each kept gradient by its place in the log: the last use of its key,
    since keys are reused."""
    kept = {id(storage) for storage in run.tape.kept_gradients}
    last = {
        key: (place, size) for place, (size, _, key, _) in enumerate(run.tape.log) if key in kept
    }
    return {place: (key, size) for key, (place, size) in last.items()}


def packed_constants(workload: Workload) -> list[int]:
    """Return the bytes of scales and code tables of 4-bit matrices; every third size is a matrix'
    own codes and is left out."""
    return [size for number, size in enumerate(quantized_sizes(workload)) if number % 3]
