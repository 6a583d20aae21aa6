"""Host memory that a run needs, of each rank and of a node.

A rank's memory is resident memory at the largest moment of each phase:

    load     ZeRO-3: the first rank maps the whole checkpoint and hands out what each shard needs
             (transformers/modeling_utils.py at 5.23.0, _load_pretrained_model) and stacks a layer's
             experts (planner/memory/expert_loading.py); every rank collects its slices in host
             memory once (deepspeed/runtime/zero/utils.py at 0.19.8, defragment). FSDP: every rank
             has the model here in pages of the files, which ranks share; what is packed in 4 bit,
             experts that are stacked, and the unit that is cast to fp32 are its own
             (launcher/training/fully_sharded.py). Otherwise a tensor at a time goes straight to
             the device. ZeRO-1 and ZeRO-2 flatten what trains in host
             memory where the device has no room for a copy (stage_1_and_2.py, __init__). The first
             rank decomposes a matrix where adapters begin as a part of it
             (launcher/adapters/parted_base.py)
    train    what is offloaded, and paged optimizer states, which may be here when the device
             has no room for them; the inputs of recomputed layers of one micro-batch, where
             activations are offloaded
    save     the first rank copies a file whole before it is written (safetensors/torch.py at
             0.8.0, _flatten_as_ptr), up to 50 GB of it (transformers/modeling_utils.py at
             5.23.0); under ZeRO-3 it has gathered all files in host memory, which are written
             as they are (deepspeed/runtime/engine.py, _zero3_consolidated_16bit_state_dict); FSDP
             gathers what trains in the dtype that the optimizer updates
"""

from collections import Counter

from msgspec import Struct

from planner.base.units import FP32_BYTES, ceil_div
from planner.hardware.cluster import PROCESS_BYTES, Cluster, Device
from planner.memory.device_memory import resident_bytes
from planner.memory.expert_loading import stacked_on_host, stacked_params
from planner.memory.footprint import Footprint, gradient_sink, worst_batch
from planner.memory.micro_batch import micro_batch
from planner.memory.model_states import frozen_bytes, model_states
from planner.memory.quantized_loading import quantized_from
from planner.memory.zero_1_2 import Partition, flat_states_bytes, partitions
from planner.memory.zero_3 import sub_groups
from planner.plan.optimizer_presets import optimizers
from planner.workload.dtypes import Numerics, numerics_of
from planner.workload.fsdp_units import fsdp_units, shard_sizes, shard_tensors
from planner.workload.layout import Layout
from planner.workload.optimizers import states_bytes
from planner.workload.parameters import parameters
from planner.workload.trained_tensors import counted_tensors
from planner.workload.workload import Workload
from planner.workload.zero_sizes import zero_section

CPU_ADAM_BYTES = 8
"""Bytes per parameter of DeepSpeedCPUAdam's two fp32 moments, which accelerate uses instead of the
plan's optimizer where its states are offloaded; read: accelerate/utils/deepspeed.py at 1.15.0,
map_pytorch_optim_to_deepspeed."""


LARGEST_FILE_BYTES = 50 * 10**9
"""Bytes up to which a checkpoint's file grows before the next one is begun."""


class HostMemory(Struct, frozen=True):
    """Resident bytes by phase of one node's first rank and of each other rank."""

    first_rank: dict[str, int]
    other_ranks: dict[str, int]
    ranks: int
    """Number of ranks on a node."""

    def beside(self, footprint: Footprint) -> int:
        """Return the bytes that the host adds to the peak of a device with the same memory: what
        is trained or offloaded is on one of the two, and a load or a save may need more of the
        host where the device holds less."""
        peak = footprint.peak_allocated_bytes
        added = {
            "load": self.first_rank["load"] + footprint.total_bytes("load") - peak,
            "train": self.first_rank["train"],
            "save": self.first_rank["save"] + footprint.total_bytes("save") - peak,
        }
        return max(added.values())

    @property
    def node_bytes(self) -> int:
        """Bytes of all ranks of the first node at their largest moment."""
        others = self.ranks - 1
        return max(
            self.first_rank[phase] + others * self.other_ranks[phase] for phase in self.first_rank
        )


def host_memory(
    workload: Workload, layout: Layout, cluster: Cluster, *, peak_allocated_bytes: int
) -> HostMemory:
    """Return the host memory that a run needs; on the CPU the tensors are part of it."""
    ranks = cluster.gpus_per_node
    if cluster.device == "cpu":
        _, _, most = resident_bytes(peak_allocated_bytes)
        every = {"train": most}
        return HostMemory(first_rank=every, other_ranks=every, ranks=ranks)
    kinds = numerics_of(workload, layout)
    held = PROCESS_BYTES + offloaded_bytes(workload, layout, kinds)
    held += _paged(workload, layout, kinds)
    held += _offloaded_activations(workload, layout, kinds)
    load = _load_bytes(workload, layout, cluster, kinds)
    first, others = _parting(workload, layout, kinds)
    checkpoint = workload.model.num_params * kinds.compute
    mapped = 0
    if layout.zero_stage == 3 and workload.method != "qlora":
        mapped = checkpoint + stacked_on_host(workload, kinds)
    elif layout.strategy == "fsdp":
        mapped = checkpoint + load
    return HostMemory(
        first_rank={
            "load": PROCESS_BYTES + max(mapped, load) + first,
            "train": held,
            "save": held + _saved_bytes(workload, layout, kinds),
        },
        other_ranks={
            "load": PROCESS_BYTES + load + others,
            "train": held,
            "save": held,
        },
        ranks=ranks,
    )


def _parting(workload: Workload, layout: Layout, kinds: Numerics) -> tuple[int, int]:
    """Return what the first rank and each other one take to part the base; 0 for most adapters."""
    adapter = workload.settings.adapter
    if adapter is None or not adapter.changes_base:
        return 0, 0
    from planner.workload.parted_base import parting_bytes  # few plans need it

    where: Device = "cpu" if layout.strategy == "fsdp" else "cuda"
    first = parting_bytes(workload, kinds, on_device=where, is_first=True)
    return first, parting_bytes(workload, kinds, on_device=where, is_first=False)


def _paged(workload: Workload, layout: Layout, kinds: Numerics) -> int:
    """Return the bytes of one rank's optimizer states in CUDA managed memory."""
    optimizer = optimizers()[workload.settings.optimizer.name]
    if layout.offload != "none" or not optimizer.paged:
        return 0
    if layout.zero_stage == 0:
        tensors = counted_tensors(workload)
        return states_bytes(optimizer, tensors, width=kinds.home, device="cuda").paged
    return flat_states_bytes(
        workload.settings.optimizer, flat_parts(workload, layout), kinds.home, "cuda"
    ).paged


def flat_parts(workload: Workload, layout: Layout) -> list[int]:
    """Return the elements of each flat tensor that a rank of DeepSpeed hands its optimizer."""
    ranks = layout.world_size
    if layout.zero_stage < 3:
        return [each.part for each in partitions(workload, ranks)]
    zero = zero_section(workload, layout)
    assert zero is not None
    groups = parameters(workload).optimizer_groups
    return [size for group in groups for size in sub_groups(group, ranks, zero.sub_group_size)]


def _saved_bytes(workload: Workload, layout: Layout, kinds: Numerics) -> int:
    """Return the bytes that saving holds: files are copied one at a time; what is cut by ZeRO-3, by
    FSDP and by tensor parallelism has been gathered, by the latter two in the dtype that the
    optimizer updates."""
    if layout.strategy in ("fsdp", "tensor"):
        return workload.trainable_params * kinds.home
    result = result_bytes(workload, layout, kinds)
    return result if layout.zero_stage == 3 else min(result, LARGEST_FILE_BYTES)


def _load_bytes(workload: Workload, layout: Layout, cluster: Cluster, kinds: Numerics) -> int:
    trained = workload.trainable_params * kinds.trainable
    if layout.strategy == "fsdp":
        return _own_bytes(workload, layout, kinds)
    if layout.zero_stage == 0:
        return 0
    if layout.zero_stage == 3:
        return ceil_div(trained, layout.world_size)
    held = frozen_bytes(workload, kinds) + trained
    room = cluster.accelerator.free_bytes - cluster.accelerator.context_bytes - held
    return 0 if room >= trained else 2 * trained


def _own_bytes(workload: Workload, layout: Layout, kinds: Numerics) -> int:
    """Return the bytes that a rank of FSDP has for itself before it cuts them."""
    if workload.method == "qlora":
        return frozen_bytes(workload, kinds) + quantized_from(workload, kinds)
    stacked = workload.model.routed_params * kinds.frozen if stacked_params(workload) else 0
    if workload.method == "lora":
        return stacked
    units = fsdp_units(workload, layout.shard_ranks, kinds)
    return stacked + max(unit.loaded_bytes for unit in units.all)


def pinned(num_bytes: int) -> int:
    """Return the bytes of a pinned block, which is a power of two.

    read: ATen/core/CachingHostAllocator.h at 2.13.

    >>> pinned(5 * 2**30) == 8 * 2**30
    True
    """
    return 1 << (num_bytes - 1).bit_length() if num_bytes else 0


def offloaded_bytes(workload: Workload, layout: Layout, kinds: Numerics) -> int:
    """Return the bytes of states that one rank keeps in host memory."""
    if layout.offload == "none":
        return 0
    if layout.zero_stage == 3:
        return _offloaded_stage_3(workload, layout, kinds)
    if layout.strategy == "fsdp":
        return _offloaded_shards(workload, layout, kinds)
    accumulates = layout.gradient_accumulation_steps > 1
    cuts = partitions(workload, layout.world_size)
    return sum(_offloaded_group(cut, kinds, accumulates) for cut in cuts)


def _offloaded_activations(workload: Workload, layout: Layout, kinds: Numerics) -> int:
    """Return the bytes of one rank's inputs of recomputed layers, each in a pinned block.

    read: torch/autograd/graph.py at 2.13, save_on_cpu.
    """
    if not workload.settings.activation_offloading:
        return 0
    batch = worst_batch(workload, layout, "cuda")
    checkpointing, sink = layout.checkpointing, gradient_sink(layout)
    passes = micro_batch(workload, batch, kinds, checkpointing=checkpointing, sink=sink)
    return sum(map(pinned, passes.to_host))


def _offloaded_group(cut: Partition, kinds: Numerics, accumulates: bool) -> int:
    """Return the bytes of one optimizer group.

    read: deepspeed/runtime/zero/stage_1_and_2.py at 0.19.8, __init__ and
    initialize_optimizer_states: pinned are the fp32 copy, its gradient, a 16-bit copy, and a buffer
    for the largest gradient; with accumulation every gradient of the rank's part.
    """
    added_up = max(cut.touched) * kinds.gradient if accumulates else 0
    return (
        cut.part * CPU_ADAM_BYTES
        + 2 * pinned(cut.part * FP32_BYTES)
        + pinned(cut.part * kinds.trainable)
        + pinned(cut.largest * kinds.gradient)
        + added_up
    )


def _offloaded_stage_3(workload: Workload, layout: Layout, kinds: Numerics) -> int:
    """Return the bytes of one rank under ZeRO-3.

    read: deepspeed/runtime/zero/stage3.py at 0.19.8, _create_fp32_partitions,
    initialize_optimizer_states and _setup_for_real_optimizer: pinned are the fp32 gradients of each
    sub-group and the buffer of all; with parameters (partition_parameters.py, _partition_param)
    every slice, and what trains once more, flat.
    """
    ranks, sizes = layout.world_size, flat_parts(workload, layout)
    states = sum(n * (FP32_BYTES + CPU_ADAM_BYTES) + pinned(n * FP32_BYTES) for n in sizes)
    states += pinned(sum(sizes) * kinds.gradient)
    if layout.offload != "all":
        return states
    slices = [ceil_div(each.elements, ranks) * kinds.compute for each in parameters(workload)]
    return states + sum(map(pinned, slices)) + pinned(sum(sizes) * kinds.compute)


def _offloaded_shards(workload: Workload, layout: Layout, kinds: Numerics) -> int:
    """Return the bytes of one rank under FSDP.

    read: torch/distributed/fsdp/_fully_shard at 2.13, _fsdp_param.py (_init_sharded_param) and
    _fsdp_collectives.py (foreach_reduce): pinned are the shard of each parameter and its gradient;
    the optimizer's states are in pages.
    """
    ranks = layout.shard_ranks
    shards = shard_sizes(workload, ranks, kinds)
    tensors = Counter(shard_tensors(workload, ranks))
    gradients = [each.elements * kinds.home for each in tensors.elements()]
    optimizer = optimizers()[workload.settings.optimizer.name]
    states = states_bytes(optimizer, tensors, width=kinds.home, device="cpu")
    return sum(map(pinned, [*shards, *gradients])) + states.on_device


def result_bytes(workload: Workload, layout: Layout, kinds: Numerics) -> int:
    """Return the bytes of the model in the compute precision, or of the adapter as trained, without
    optimizer states; of one that was a part of its base with what that began as, which the run
    directory has, too."""
    kept = kinds.home if layout.strategy == "fsdp" else kinds.trainable
    width = kinds.compute if workload.method == "full" else kept
    adapter = workload.settings.adapter
    times = 3 if adapter is not None and adapter.changes_base else 1
    shared = sum(workload.shared_matrices) * kinds.shared
    return times * workload.trainable_params * width + shared


def checkpoint_bytes(workload: Workload, layout: Layout, device: Device) -> int:
    """Return the bytes of a checkpoint by all ranks together: what trains, its optimizer states,
    and what adapters share."""
    kinds = numerics_of(workload, layout)
    states = model_states(
        frozen_bytes=0,
        tensors=counted_tensors(workload),
        optimizer=optimizers()[workload.settings.optimizer.name],
        numerics=kinds,
        zero_stage=0,
        data_parallel_size=1,
        device=device,
    )
    if layout.strategy == "fsdp" and kinds.master:
        return states.optimizer_states_bytes  # the master is what trains
    shared = sum(workload.shared_matrices) * kinds.shared
    return states.trainable_bytes + shared + states.optimizer_states_bytes
