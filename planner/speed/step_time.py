"""Seconds of one optimizer step, by what they go to, and the operations in them.

Kernels are counted on the pass that memory is counted on (planner/speed/pass_time.py) and take as
long as their operations or their bytes do at the rates that the card reaches
(planner/speed/card_rates.py). A card without known rates has no step time; candidates are ranked
all the same, by the time on a nominal card, since their order hardly depends on it.
"""

from functools import cache
from typing import NamedTuple

from planner.hardware.cluster import Cluster, Device
from planner.hardware.network import Ranks
from planner.plan.optimizer_presets import optimizers
from planner.plan.vocabulary import Strategy, ZeroStage
from planner.speed.card_rates import Rates
from planner.speed.communication import NOTHING, Communication
from planner.speed.pass_time import PassTime, pass_time
from planner.tape.operators import FP32
from planner.workload.dtypes import Numerics, numerics
from planner.workload.layout import Layout
from planner.workload.optimizers import states_bytes
from planner.workload.trained_tensors import counted_tensors
from planner.workload.workload import Workload

READS_TO_CLIP = 3
"""Gradients are read for their norm, then read and written scaled:
torch/nn/utils/clip_grad.py at 2.13."""


class StepTime(NamedTuple):
    """Parts in seconds, of one rank; all ranks take the same time."""

    products_s: float
    """Matrix products and attention."""
    elementwise_s: float
    """Kernels that only move data: norms, activations, casts, the loss."""
    dequantize_s: float
    launch_s: float
    """Gaps between kernels, or what the host takes longer than the device."""
    update_s: float
    exposed_communication_s: float
    offload_s: float
    hidden_communication_s: float
    """Beside compute, so that it is in none of the other parts."""
    model_flops: int
    hardware_flops: int

    @property
    def total_s(self) -> float:
        return (
            self.products_s
            + self.elementwise_s
            + self.dequantize_s
            + self.launch_s
            + self.update_s
            + self.exposed_communication_s
            + self.offload_s
        )


def step_time(workload: Workload, layout: Layout, cluster: Cluster, speed: Rates) -> StepTime:
    """One optimizer step of full samples."""
    priced = _priced(workload, layout.zero_stage, cluster.device, speed)
    passed, launch_s = priced.micro_batch(layout.micro_batch_size, layout.checkpointing)
    times = layout.gradient_accumulation_steps
    ranks = layout.world_size
    over = NOTHING
    if ranks > 1:
        between = priced.communication(layout.strategy, ranks, cluster.num_nodes)
        over = between.of_step(passed, times)
    return StepTime(
        products_s=times * passed.products_s,
        elementwise_s=times * passed.elementwise_s,
        dequantize_s=times * passed.dequantize_s,
        launch_s=times * launch_s,
        update_s=priced.update_s(layout),
        exposed_communication_s=over.exposed_s,
        offload_s=0.0 if layout.offload == "none" else priced.offload_s(layout),
        hidden_communication_s=over.hidden_s,
        model_flops=times * passed.model_flops,
        hardware_flops=times * passed.hardware_flops,
    )


@cache
def _priced(
    workload: Workload, zero_stage: ZeroStage, device: Device, speed: Rates
) -> "_PricedWorkload":
    return _PricedWorkload(workload, zero_stage, device, speed)


class _PricedWorkload:
    """What of a step does not depend on the rest of its layout, made once."""

    def __init__(
        self, workload: Workload, zero_stage: ZeroStage, device: Device, speed: Rates
    ) -> None:
        self._workload, self._device, self._speed = workload, device, speed
        self.kinds: Numerics = numerics(
            method=workload.method, compute=workload.compute, zero_stage=zero_stage
        )
        self._passes: dict[tuple[int, int], tuple[PassTime, float]] = {}
        self._communication: dict[tuple[Strategy, int, int], Communication] = {}
        self._trained = workload.trainable_params
        self._update_bytes: int | None = None

    def micro_batch(self, samples: int, checkpointing: int) -> tuple[PassTime, float]:
        """Its time on the device, and what launching adds."""
        key = (samples, checkpointing)
        found = self._passes.get(key)
        if found is None:
            passed = pass_time(
                self._workload,
                self.kinds,
                samples,
                checkpointing=checkpointing,
                device=self._device,
                speed=self._speed,
            )
            found = self._passes[key] = passed, launch_s(passed, self._speed)
        return found

    def communication(self, strategy: Strategy, ranks: int, nodes: int) -> Communication:
        key = (strategy, ranks, nodes)
        if key not in self._communication:
            self._communication[key] = Communication(
                self._workload,
                self.kinds,
                strategy,
                Ranks(ranks, nodes, self._speed.links),
                self._speed.bandwidth_bytes_per_s,
            )
        return self._communication[key]

    def update_s(self, layout: Layout) -> float:
        """The update reads and writes every state of the rank's shard; gradients are clipped."""
        if layout.offload != "none":
            return 0.0
        if self._update_bytes is None:
            self._update_bytes = update_bytes(self._workload, self.kinds)
        shards = layout.world_size if layout.zero_stage else 1
        return self._update_bytes / shards / self._speed.bandwidth_bytes_per_s

    def offload_s(self, layout: Layout) -> float:
        """Gradients in fp32 to the host, its update, parameters back, once a step; offloaded
        parameters in, twice a micro-batch. None of it is hidden."""
        shard = self._trained / layout.world_size
        moved = shard * (FP32 + self.kinds.trainable)
        if layout.offload == "all":
            slices = self._workload.model.num_params * self.kinds.compute / layout.world_size
            moved += 2 * layout.gradient_accumulation_steps * slices
        over_the_slot = moved / self._speed.links.host_bytes_per_s
        return over_the_slot + shard * self._speed.adam_on_host_s_per_parameter


def launch_s(passed: PassTime, speed: Rates) -> float:
    """Kernels wait for each other, or the device for a host that cannot launch as fast."""
    gaps = passed.kernels * speed.kernel_gap_s
    return max(gaps, passed.kernels * speed.host_s_per_kernel - passed.busy_s)


def update_bytes(workload: Workload, kinds: Numerics) -> int:
    """Of all trained parameters: states, parameters and their copies read and written."""
    states = states_bytes(
        optimizers()[workload.settings.optimizer.name],
        counted_tensors(workload),
        width=kinds.home,
        device="cuda",
    )
    trained = workload.trainable_params
    written = states.on_device + states.paged + trained * (kinds.master + kinds.trainable)
    return 2 * written + (1 + READS_TO_CLIP) * trained * kinds.gradient
