"""Whether no number of such cards is enough, since layers would have to be split over them.

DDP, ZeRO and offload give every device whole layers to compute with. What a layer takes while it
runs does not shrink with more devices: tensor parallelism cuts it over the devices of one node, and
pipeline parallelism, which the launcher does not offer, would give each device fewer layers.
"""

from msgspec import structs

from planner.base.phrases import Phrase
from planner.hardware.cluster import Cluster
from planner.hardware.multi_node import MOST_GPUS
from planner.memory.device_memory import device_memory
from planner.memory.footprint import footprint
from planner.plan.vocabulary import Offload
from planner.workload.layout import Layout
from planner.workload.rules import Combination, broken_rule
from planner.workload.workload import Workload

SENTENCE = Phrase(
    "At this length it fits on no number of such cards with DDP, ZeRO or "
    "offload, nor with each layer cut over the cards of one node: pipeline "
    "parallelism is not offered. Choose a smaller model or a larger card."
)
BRIEFLY = Phrase("at this length no number of such cards is enough")
CUT_OVER = (2, 4, 8)
"""Numbers of cards of one node that layers are tried to be cut over."""
OFFLOADS: tuple[Offload, ...] = ("none", "all")


def must_be_split(workload: Workload, cluster: Cluster, budget_bytes: int) -> bool:
    """Return whether ZeRO-3 over the most GPUs, with one recomputed sample on each, is too large,
    with all states in host memory too."""
    nodes = max(1, MOST_GPUS // cluster.gpus_per_node)
    most = structs.replace(cluster, num_nodes=nodes)
    return all(_peak_bytes(workload, most, offload) > budget_bytes for offload in OFFLOADS)


def fewest_cut(workload: Workload, cluster: Cluster, budget_bytes: int) -> int | None:
    """Return the fewest such cards of one node that one recomputed sample fits on with each layer
    cut over them; None if there are none, or a rule is against it."""
    for count in CUT_OVER:
        node = structs.replace(cluster, num_nodes=1, gpus_per_node=count)
        combination = Combination.of(workload, "tensor", "none", node)
        if broken_rule(combination, pinned=frozenset()) is not None:
            continue
        layout = Layout(
            strategy="tensor",
            world_size=count,
            micro_batch_size=1,
            gradient_accumulation_steps=1,
            activation_checkpointing=True,
        )
        if _bytes_of(workload, layout, node) <= budget_bytes:
            return count
    return None


def _peak_bytes(workload: Workload, cluster: Cluster, offload: Offload) -> int:
    layout = Layout(
        strategy="zero3",
        world_size=cluster.world_size,
        micro_batch_size=1,
        gradient_accumulation_steps=1,
        activation_checkpointing=True,
        offload=offload,
    )
    return _bytes_of(workload, layout, cluster)


def _bytes_of(workload: Workload, layout: Layout, cluster: Cluster) -> int:
    capability = cluster.accelerator.compute_capability
    peaks = footprint(workload, layout, cluster.device, compute_capability=capability)
    return device_memory(peaks, cluster, workload.method).high_bytes
