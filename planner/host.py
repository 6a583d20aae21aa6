"""What a run takes of the host: memory of one node, and disk for what it leaves behind."""

from planner.numerics import BYTES, numerics
from planner.search import Candidate
from planner.units import MIB

PROCESS_BYTES = 501 * MIB
"""measured: resident memory of a process that has imported torch 2.13, transformers 5.23,
trl 1.16, peft 0.21, bitsandbytes 0.50 and DeepSpeed 0.19, and nothing else (Linux x86-64)."""


def host_ram_bytes(candidate: Candidate) -> int:
    """Resident memory of all ranks of one node.

    On the CPU that is where the tensors are. DeepSpeed's stages 1 and 2 build the model in
    host memory before they move it, a whole 16-bit copy on each rank; stage 3 and the other
    strategies load straight to the device, a shard file at a time.
    """
    ranks = candidate.cluster.gpus_per_node
    if candidate.cluster.device == "cpu":
        return ranks * (candidate.memory.peak_allocated_bytes + PROCESS_BYTES)
    whole = candidate.workload.model.num_params * BYTES[candidate.workload.compute]
    staged = whole if candidate.layout.zero_stage in (1, 2) else 0
    return ranks * (PROCESS_BYTES + staged)


def disk_bytes(candidate: Candidate) -> int:
    """The adapter or the model as it is saved at the end."""
    kinds = numerics(
        method=candidate.method,
        compute=candidate.workload.compute,
        zero_stage=candidate.layout.zero_stage,
    )
    return candidate.workload.trainable_params * kinds.trainable
