"""What a run's allocator reserves with expandable segments, as ``plan`` expects it.

Two steps are replayed through one layer of each kind (planner/allocator/few_layers.py). How close
that comes to PyTorch's allocator: benchmarks/results/simulated.csv.
"""

from collections.abc import Iterable, Iterator, Sequence

from planner.allocator.ddp_steps import ddp_second_step, ddp_set_up
from planner.allocator.deepspeed_steps import (
    flat_bytes,
    reduced_bytes,
    side_bytes,
    zero_requests,
)
from planner.allocator.few_layers import FewLayers, dropped, micro_batch, passed, workspaces_of
from planner.allocator.fsdp_steps import fsdp_requests
from planner.allocator.fsdp_steps import side_bytes as side_bytes_of_fsdp
from planner.allocator.held_sizes import STEPS, quantized_sizes, states_of
from planner.allocator.large_requests import (
    Request,
    Sizes,
    allocated,
    changed,
    laid_out,
    most_small,
    reserved_bytes,
    split_by_pool,
)
from planner.allocator.loading import beside_sizes, runs_of_load
from planner.allocator.pass_trace import Change, numbered
from planner.allocator.pools import SMALL_SEGMENT_BYTES
from planner.base.units import block, round_up
from planner.memory.footprint import moments_of
from planner.memory.optimizer_step import step_of
from planner.memory.workspaces import cublas_workspaces
from planner.memory.zero_phases import gathered_bytes, largest_copy_bytes
from planner.workload.dtypes import Numerics
from planner.workload.fsdp_units import shard_tensors, units_of
from planner.workload.layout import Layout
from planner.workload.trained_tensors import trained_tensors
from planner.workload.workload import Batch, Workload
from planner.workload.zero_sizes import zero_section


def expected_reserved_bytes(
    workload: Workload, layout: Layout, batch: Batch, numerics: Numerics
) -> int:
    """Return the bytes that the allocator of one device takes from the driver over two steps."""
    workload = workload.of_a_rank(layout)
    zero = zero_section(workload, layout)
    bucket_size = zero.reduce_bucket_size if zero and layout.zero_stage > 1 else None
    run = passed(workload, layout, batch, numerics, bucket_size=bucket_size)
    if layout.strategy == "fsdp":
        return _of_fsdp(run, workload, layout, batch, numerics)
    if zero is None:
        return _of_torch(run, workload, layout, batch, numerics)
    moments = moments_of(workload, layout, batch, numerics)
    frozen = moments["forward"].buffers.get("frozen_weights", 0)
    requests = zero_requests(
        run,
        workload,
        layout,
        moments,
        frozen=_frozen(workload, numerics, frozen),
        flat=flat_bytes(workload, layout, numerics),
        workspaces=cublas_workspaces(batch.compute_capability),
    )
    small = round_up(run.small_bytes + _small_frozen_bytes(workload, run), SMALL_SEGMENT_BYTES)
    copy = largest_copy_bytes(workload, layout, numerics, zero, batch.device)
    gathers = layout.zero_stage == 3
    gathered = gathered_bytes(workload, layout, zero, numerics).most if gathers else 0
    reduced = reduced_bytes(workload, layout, zero, numerics, batch.device)
    side = side_bytes(layout, gradients=reduced, copy=copy, gathered=gathered)
    return reserved_bytes(requests) + side + small


def _frozen(workload: Workload, numerics: Numerics, num_bytes: int) -> Iterator[Request]:
    """Yield the load of frozen weights that take so many bytes, of quantized ones the large ones
    alone."""
    if workload.settings.quantization is None:
        yield "frozen", num_bytes
    else:
        yield from laid_out("frozen", runs_of_load(workload, numerics, adapters=False))


def _small_frozen_bytes(workload: Workload, run: FewLayers) -> int:
    """Return the bytes that :func:`_frozen` leaves out."""
    if workload.settings.quantization is None:
        return 0
    sizes = [*quantized_sizes(workload), *run.weight_sizes(trains=False)]
    return split_by_pool(sizes)[1]


def _of_fsdp(
    run: FewLayers, workload: Workload, layout: Layout, batch: Batch, numerics: Numerics
) -> int:
    """Return the bytes under FSDP."""
    offloaded, units = layout.offload != "none", units_of(workload, layout, numerics)
    states, update = list[int](), list[Change]()
    if not offloaded:
        tensors = shard_tensors(workload, layout.shard_ranks)
        states += [block(size) for size in states_of(workload, tensors, numerics, batch.device)]
        step = step_of(workload, tensors, width=numerics.home, device=batch.device)
        update += numbered(step.log)[0]
    load = moments_of(workload, layout, batch, numerics)["load"].buffers
    requests = fsdp_requests(
        run,
        units,
        resident=sum(unit.frozen_bytes + unit.trained_bytes for unit in units.all),
        loaded=load.get("loaded_parameter", 0),
        states=states,
        update=update,
        workspaces=cublas_workspaces(batch.compute_capability),
    )
    most_reduced = max(unit.reduced_bytes for unit in units.all) // layout.shard_ranks
    sides = side_bytes_of_fsdp(
        units,
        accumulates=layout.gradient_accumulation_steps > 1,
        to_host=most_reduced if offloaded and layout.copies == 1 else 0,
    )
    small = _small_bytes(run, states, [], update)
    return reserved_bytes(requests) + sides + round_up(small, SMALL_SEGMENT_BYTES)


def _of_torch(
    run: FewLayers, workload: Workload, layout: Layout, batch: Batch, numerics: Numerics
) -> int:
    """Return the bytes without DeepSpeed."""
    is_ddp, tensors = layout.strategy == "ddp", trained_tensors(workload)
    states = [block(size) for size in states_of(workload, tensors, numerics, batch.device)]
    step = step_of(workload, tensors, width=numerics.home, device=batch.device)
    update = numbered(step.log)[0]
    requests = _requests(
        run,
        loaded=_loaded(workload, numerics, run),
        set_up=ddp_set_up(workload, numerics) if is_ddp else [],
        second_step=ddp_second_step(workload, numerics) if is_ddp else [],
        states=states,
        update=update,
        workspaces=cublas_workspaces(batch.compute_capability),
        accumulates=layout.gradient_accumulation_steps > 1,
    )
    gradients = [tensor.elements * numerics.gradient for tensor in tensors]
    _, small = split_by_pool([*quantized_sizes(workload), *run.weight_sizes()])
    small += _small_bytes(run, states, gradients, update)
    return reserved_bytes(requests) + round_up(small, SMALL_SEGMENT_BYTES)


def _small_bytes(run: FewLayers, states: Sizes, gradients: Sizes, update: Sequence[Change]) -> int:
    """Return the bytes of small blocks that are not replayed: those of the optimizer's states, and
    what a pass has beside them or what an update has beside gradients."""
    if not run.left_out:
        return 0
    (_, of_states), (_, of_gradients) = split_by_pool(states), split_by_pool(gradients)
    return of_states + max(run.small_bytes, of_gradients + most_small(update))


def _loaded(workload: Workload, numerics: Numerics, run: FewLayers) -> Iterator[Request]:
    """Yield the large requests of a load, of all layers."""
    if workload.settings.quantization is None:
        sizes = [*run.weight_sizes(), *beside_sizes(workload, numerics)]
        yield "resident", sum(split_by_pool(sizes)[0])
    else:
        yield from laid_out("load", runs_of_load(workload, numerics, adapters=True))


def _requests(
    run: FewLayers,
    *,
    loaded: Iterable[Request],
    set_up: Iterable[Request],
    second_step: Iterable[Request],
    states: Sizes,
    update: Sequence[Change],
    workspaces: Sizes,
    accumulates: bool,
) -> Iterator[Request]:
    """Yield two steps; the first one has no second micro-batch, which would take little more."""
    yield from loaded
    yield from set_up
    for step in range(STEPS):
        if step:
            yield from second_step
        made = workspaces_of(run.trace, [] if step else workspaces)
        yield from micro_batch((step, "first"), run, made)
        if accumulates and step:
            yield from micro_batch((step, "second"), run, [], adds=True)
        if step == 0:
            yield from allocated("state", states, run.least_bytes)
        yield from changed((step, "update"), update, run.least_bytes)
        yield from dropped((step, "first"), run)
