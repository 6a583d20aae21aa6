"""Seconds of one optimizer step by what takes them, and the operations in it.

Kernels are counted on the same pass as memory (planner/speed/pass_time.py) and take as long as
their operations or their bytes do at the rates that the card reaches (planner/speed/card_rates.py).
A card without known rates has no step time; candidates are then ranked by the time on a nominal
card, since their order hardly depends on it.
"""

from msgspec import Struct

from planner.base.units import FP32_BYTES
from planner.hardware.cluster import Cluster
from planner.hardware.network import Ranks
from planner.plan.optimizer_presets import optimizers
from planner.speed.card_rates import Rates, with_hooks
from planner.speed.communication import NOTHING, communication, within_layers
from planner.speed.pass_time import PassTime, pass_time
from planner.workload.dtypes import Numerics, numerics_of
from planner.workload.fsdp_units import shard_sizes
from planner.workload.layout import Layout
from planner.workload.optimizers import states_bytes
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.trained_tensors import counted_tensors
from planner.workload.workload import Workload

READS_TO_CLIP = 3
"""Passes over gradients to clip them: read for their norm, then read and written scaled; read:
torch/nn/utils/clip_grad.py at 2.13."""


class StepTime(Struct, frozen=True):
    """Parts of a step in seconds of one rank; all ranks take the same time."""

    products_s: float
    """Seconds of matrix products and attention."""
    elementwise_s: float
    """Seconds of kernels that only move data: norms, activations, casts, the loss."""
    dequantize_s: float
    """Seconds of dequantizing weights."""
    launch_s: float
    """Seconds of gaps between kernels, or that the host takes longer than the device."""
    update_s: float
    """Seconds of the optimizer's update on the device."""
    exposed_communication_s: float
    """Seconds of communication that no compute hides."""
    offload_s: float
    """Seconds of copies of states and activations to and from the host, and of its update."""
    hidden_communication_s: float
    """Seconds of communication beside compute, which are in no other part."""
    model_flops: int
    hardware_flops: int
    backward_over_forward: float
    """Seconds of a backward pass, recomputation included, over those of a forward pass."""

    @property
    def total_s(self) -> float:
        """Seconds of the whole step."""
        return (
            self.products_s
            + self.elementwise_s
            + self.dequantize_s
            + self.launch_s
            + self.update_s
            + self.exposed_communication_s
            + self.offload_s
        )


def step_time(
    workload: Workload,
    layout: Layout,
    cluster: Cluster,
    speed: Rates,
    *,
    slowest_links: bool = False,
) -> StepTime:
    """Return the time of one optimizer step of full samples, over the links of the datasheet or the
    slowest that such a machine may have."""
    workload = workload.of_a_rank(layout)
    kinds, times = numerics_of(workload, layout), layout.gradient_accumulation_steps
    passed = pass_time(
        workload,
        kinds,
        layout.micro_batch_size,
        checkpointing=layout.checkpointing,
        device=cluster.device,
        speed=speed,
        sequence_ranks=layout.sequence_ranks,
    )
    exchanged_s = 0.0
    sent = NOTHING
    if layout.world_size > 1:
        links = speed.links.slowest if slowest_links else speed.links
        ranks = Ranks(layout.world_size, cluster.num_nodes, links)
        if passed.collectives is not None:
            sent = within_layers(passed.collectives, ranks, times)
        else:
            between = communication(
                workload, kinds, layout.strategy, ranks, speed.bandwidth_bytes_per_s, layout.copies
            )
            sent = between.of_step(passed, times)
        if layout.sequence_ranks > 1:
            from planner.speed.exchanges import exchanges_s  # few plans share sequences

            exchanged_s = times * exchanges_s(workload, layout, kinds, links)
    offloads = layout.offload != "none"
    return StepTime(
        products_s=times * passed.products_s,
        elementwise_s=times * passed.elementwise_s,
        dequantize_s=times * passed.dequantize_s,
        launch_s=times * launch_s(passed, with_hooks(speed, layout.strategy)),
        update_s=0.0 if offloads else update_s(workload, layout, kinds, speed),
        exposed_communication_s=sent.exposed_s + exchanged_s,
        offload_s=times * passed.host_copies_s
        + (offload_s(workload, layout, kinds, speed, cluster.gpus_per_node) if offloads else 0.0),
        hidden_communication_s=sent.hidden_s,
        model_flops=times * passed.model_flops,
        hardware_flops=times * passed.hardware_flops,
        backward_over_forward=passed.backward_s / passed.forward_s,
    )


def update_s(workload: Workload, layout: Layout, kinds: Numerics, speed: Rates) -> float:
    """Return seconds of reading and writing every state of the rank's shard, and of clipping
    gradients."""
    shards = layout.shard_ranks if layout.is_sharded else 1
    copied = layout.strategy != "fsdp"
    updated = update_bytes(workload, kinds, copied=copied)
    return updated / shards / speed.bandwidth_bytes_per_s


def offload_s(
    workload: Workload, layout: Layout, kinds: Numerics, speed: Rates, ranks_per_node: int
) -> float:
    """Return seconds of offloaded states: of moving gradients in fp32 to the host, updating there,
    and moving parameters back, once per step; offloaded parameters are fetched twice per
    micro-batch. None of it is hidden.

    FSDP fetches shards for each pass, and every micro-batch sends gradients; with several copies of
    the parameters the last one alone does, which sums over the copies.

    Each card has a slot of its own, and all ranks of a node share one host: it updates their shards
    in the time that it takes for all of them.
    """
    times = layout.gradient_accumulation_steps
    shard = workload.trainable_params / layout.shard_ranks
    if layout.strategy == "fsdp":
        shards = sum(shard_sizes(workload, layout.shard_ranks, kinds))
        sent = shard * kinds.home / (times if layout.copies > 1 else 1)
        over_the_slot = times * (2 * shards + sent) / speed.links.host_bytes_per_s
        return over_the_slot + ranks_per_node * shard * speed.adam_on_host_s_per_parameter
    moved = shard * (FP32_BYTES + kinds.trainable)
    if layout.offload == "all":
        slices = workload.model.num_params * kinds.compute / layout.world_size
        moved += 2 * times * slices
    over_the_slot = moved / speed.links.host_bytes_per_s
    return over_the_slot + ranks_per_node * shard * speed.adam_on_host_s_per_parameter


def launch_s(passed: PassTime, speed: Rates) -> float:
    """Return seconds that kernels wait for each other, or the device for a host that cannot launch
    as fast."""
    gaps = passed.kernels * speed.kernel_gap_s
    return max(gaps, passed.kernels * speed.host_s_per_kernel - passed.busy_s)


@cached_by_settings(*TRAINED, "optimizer")
def update_bytes(workload: Workload, kinds: Numerics, *, copied: bool = True) -> int:
    """Return the bytes that an update of all trained parameters reads and writes: states,
    parameters and their copies, and gradients to clip.

    ``copied`` is false under FSDP, where the master is the only copy, with gradients like it.
    """
    states = states_bytes(
        optimizers()[workload.settings.optimizer.name],
        counted_tensors(workload),
        width=kinds.home,
        device="cuda",
    )
    trained = workload.trainable_params
    parameter, gradient = kinds.home, kinds.home
    if copied:
        parameter, gradient = kinds.master + kinds.trainable, kinds.gradient
    written = states.on_device + states.paged + trained * parameter
    return 2 * written + (1 + READS_TO_CLIP) * trained * gradient
