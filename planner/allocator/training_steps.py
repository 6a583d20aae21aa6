"""Two training steps in full, replayed through the caching allocator: blocks and segments.

``max_memory_allocated`` counts whole blocks, and the allocator leaves a block whole when what is
left over is at most 1 MiB; ``max_memory_reserved`` counts segments. Both depend on the order in
which storages come and go, so that every layer is run here and not one of each kind.
"""

from collections.abc import Iterable, Sequence

from planner.allocator.held_sizes import STEPS, states_of
from planner.allocator.loading import beside_sizes, loaded
from planner.allocator.pass_trace import Change, PassTrace, numbered, trace_of
from planner.allocator.replay import Allocate, AllocatorEvent, AllocatorPeak, Free, replay
from planner.forward.model_pass import passed_layers
from planner.memory.optimizer_step import step_of
from planner.memory.workspaces import cublas_workspaces
from planner.workload.dtypes import Numerics
from planner.workload.layout import Layout
from planner.workload.trained_tensors import trained_tensors
from planner.workload.workload import Batch, Workload


def allocator_peak(
    workload: Workload,
    layout: Layout,
    batch: Batch,
    numerics: Numerics,
    *,
    expandable_segments: bool,
) -> AllocatorPeak:
    """Return what :func:`training_events` take on one device."""
    events = training_events(workload, layout, batch, numerics)
    return replay(events, expandable_segments=expandable_segments)


def training_events(
    workload: Workload, layout: Layout, batch: Batch, numerics: Numerics
) -> list[AllocatorEvent]:
    """Return the allocations of two steps of one process.

    The first step makes the optimizer's states. Where micro-batches are accumulated a step has two
    of them, and the gradients of the second are added to those of the first.
    """
    layers = passed_layers(workload.model, layout.checkpointing)
    trace = trace_of(workload, batch, numerics, layers)
    tensors = trained_tensors(workload)
    log = step_of(workload, tensors, width=numerics.home, device=batch.device).log
    update = numbered(log)[0]
    workspaces = cublas_workspaces(batch.compute_capability)
    events = _loaded(workload, numerics, trace)
    for step in range(STEPS):
        events += _first_micro_batch(step, trace, workspaces if step == 0 else [])
        if layout.gradient_accumulation_steps > 1:
            events += _events("second", step, (change for _, change in trace.added()))
        if step == 0:
            events += _held("state", states_of(workload, tensors, numerics, batch.device))
        events += _events("update", step, update)
        events += [Free(("first", step, number)) for number in trace.kept.values()]
    return events


def _loaded(workload: Workload, numerics: Numerics, trace: PassTrace) -> list[AllocatorEvent]:
    """Return a load: where nothing is quantized each weight, those that no text passes last."""
    if workload.settings.quantization is None:
        passed = [weight.elements * weight.width for weight in trace.weights.values()]
        return _held("weight", [*passed, *beside_sizes(workload, numerics)])
    return [
        Allocate(("load", key), num_bytes) if num_bytes else Free(("load", key))
        for key, num_bytes in loaded(workload, numerics)
    ]


def _first_micro_batch(
    step: int, trace: PassTrace, workspaces: Sequence[int]
) -> list[AllocatorEvent]:
    """Return a micro-batch that keeps its gradients, with workspaces if there are any to make."""
    events: list[AllocatorEvent] = []
    done = 0
    for key, (place, num_bytes) in enumerate(zip(trace.workspaces, workspaces, strict=False)):
        events += _events("first", step, trace.changes[done:place])
        events.append(Allocate(("workspace", key), num_bytes))
        done = place
    return events + _events("first", step, trace.changes[done:])


def _held(name: str, sizes: list[int]) -> list[AllocatorEvent]:
    return [Allocate((name, number), size) for number, size in enumerate(sizes)]


def _events(name: str, step: int, changes: Iterable[Change]) -> list[AllocatorEvent]:
    return [
        Allocate((name, step, number), num_bytes) if num_bytes > 0 else Free((name, step, number))
        for num_bytes, number in changes
        if num_bytes
    ]
