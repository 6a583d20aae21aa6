"""Whether no number of such cards is enough, since layers would have to be split over them.

DDP, ZeRO and offload give every device whole layers to compute with. What a layer takes while it
runs does not shrink with more devices: tensor or pipeline parallelism would be needed, which the
launcher does not offer.
"""

from msgspec import structs

from planner.base.phrases import Phrase
from planner.hardware.cluster import Cluster
from planner.hardware.multi_node import MOST_GPUS
from planner.memory.device_memory import device_memory
from planner.memory.footprint import footprint
from planner.plan.vocabulary import Offload
from planner.workload.layout import Layout
from planner.workload.workload import Workload

SENTENCE = Phrase(
    "At this length it fits on no number of such cards with DDP, ZeRO or "
    "offload: its layers would have to be split over cards by tensor or pipeline "
    "parallelism, which launch does not offer. Choose a smaller model or a "
    "larger card."
)
BRIEFLY = Phrase(
    "at this length it needs tensor or pipeline parallelism on such cards, which "
    "launch does not offer"
)
OFFLOADS: tuple[Offload, ...] = ("none", "all")


def must_be_split(workload: Workload, cluster: Cluster, budget_bytes: int) -> bool:
    """Return whether ZeRO-3 over the most GPUs, with one recomputed sample on each, is too large,
    with all states in host memory too."""
    nodes = max(1, MOST_GPUS // cluster.gpus_per_node)
    most = structs.replace(cluster, num_nodes=nodes)
    return all(_peak_bytes(workload, most, offload) > budget_bytes for offload in OFFLOADS)


def _peak_bytes(workload: Workload, cluster: Cluster, offload: Offload) -> int:
    layout = Layout(
        strategy="zero3",
        world_size=cluster.world_size,
        micro_batch_size=1,
        gradient_accumulation_steps=1,
        activation_checkpointing=True,
        offload=offload,
    )
    capability = cluster.accelerator.compute_capability
    peaks = footprint(workload, layout, cluster.device, compute_capability=capability)
    return device_memory(peaks, cluster, workload.method).high_bytes
