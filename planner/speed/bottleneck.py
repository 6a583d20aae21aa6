"""What a step waits for, and what would help, from the parts of its time."""

from msgspec import Struct

from planner.base.phrases import Phrase
from planner.speed.step_time import StepTime
from planner.workload.layout import Layout
from planner.workload.workload import Workload

NAMED_FROM = 0.2
"""Share of a step from which a part is named."""
MEMORY_BOUND_FROM = 2 * NAMED_FROM
"""Share of a step from which memory-bound kernels are named, larger since every model has them."""


class Bottleneck(Struct, frozen=True):
    """The part of a step that limits its speed."""

    name: str
    share: float
    """Share of the step's time."""
    help: str
    """What would help; empty where matrix products are most of a step."""


def bottleneck_of(step: StepTime, workload: Workload, layout: Layout) -> Bottleneck:
    """Return the largest part that is not matrix products, where it is large enough."""
    total = step.total_s
    parts = {
        "communication": step.exposed_communication_s / total,
        "host": step.launch_s / total,
        "update": step.update_s / total,
        "offload": step.offload_s / total,
        "dequantization": step.dequantize_s / total,
        "memory": step.elementwise_s / total * NAMED_FROM / MEMORY_BOUND_FROM,
    }
    name, share = max(parts.items(), key=lambda part: part[1])
    if share < NAMED_FROM:
        return Bottleneck("compute", (step.products_s / total), "")
    if name == "memory":
        share = step.elementwise_s / total
    return Bottleneck(name, share, _HELPS[name](workload, layout))


def _larger_batch(layout: Layout) -> str:
    """Return the micro-batch, as long as there is one to merge it with."""
    whole = layout.gradient_accumulation_steps == 1
    return Phrase("a larger global batch") if whole else Phrase("a larger micro-batch")


def _against_communication(workload: Workload, layout: Layout) -> str:
    if layout.strategy == "tensor":
        return Phrase("fewer devices, or a strategy that sends nothing within a layer")
    fewer = Phrase("{batch} communicates less often", batch=_larger_batch(layout))
    if layout.shards_parameters:
        return Phrase(
            "{fewer}; where the weights fit unsharded, ZeRO-2 and DDP gather none", fewer=fewer
        )
    return (
        Phrase("{fewer}; adapters have fewer gradients to reduce", fewer=fewer)
        if workload.method == "full"
        else fewer
    )


def _against_the_host(workload: Workload, layout: Layout) -> str:
    larger = Phrase(
        "{batch} or longer samples (packing) keep the device busy",
        batch=_larger_batch(layout),
    )
    return (
        Phrase("{larger}; recomputing fewer layers launches fewer kernels", larger=larger)
        if layout.checkpointing
        else larger
    )


def _against_the_update(_workload: Workload, layout: Layout) -> str:
    rarer = Phrase("a larger global batch updates less often")
    return (
        Phrase("{rarer}; ZeRO shards the update", rarer=rarer)
        if layout.strategy == "ddp"
        else rarer
    )


def _against_offload(_workload: Workload, layout: Layout) -> str:
    if layout.offload == "none":
        return Phrase("activations that stay on the device need no copies")
    return Phrase(
        "a larger global batch moves states less often; more or larger GPUs need no offloading"
    )


def _against_dequantization(_workload: Workload, _layout: Layout) -> str:
    return Phrase(
        "a larger micro-batch dequantizes weights less often; LoRA does not quantize them"
    )


def _against_memory(workload: Workload, layout: Layout) -> str:
    if workload.attention == "eager" and workload.only_attention is None:
        return Phrase("fused attention (sdpa) would not write the scores")
    if layout.checkpointing:
        return Phrase("norms, activations and casts move data; recomputing fewer layers moves less")
    return Phrase("norms, activations and casts move data, faster on a card with more bandwidth")


_HELPS = {
    "communication": _against_communication,
    "host": _against_the_host,
    "update": _against_the_update,
    "offload": _against_offload,
    "dequantization": _against_dequantization,
    "memory": _against_memory,
}
