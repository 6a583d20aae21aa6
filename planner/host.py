"""What a run takes of the host: memory of one node, and disk for what it leaves behind."""

from planner.numerics import BYTES, numerics
from planner.optimizers import optimizers, states_bytes
from planner.search import Candidate
from planner.trained_tensors import counted_tensors
from planner.units import MIB, ceil_div

PROCESS_BYTES = 501 * MIB
"""measured: resident memory of a process that has imported torch 2.13, transformers 5.23,
trl 1.16, peft 0.21, bitsandbytes 0.50 and DeepSpeed 0.19, and nothing else (Linux x86-64)."""

LARGEST_FILE_BYTES = 50 * 10**9


def host_ram_bytes(candidate: Candidate) -> int:
    """Resident memory of all ranks of one node, at its largest.

    On the CPU that is where the tensors are. Elsewhere a rank loads its weights straight to
    its device, a tensor at a time; but DeepSpeed's stages 1 and 2 take the trainable
    parameters to host memory once, to flatten them.
    read: deepspeed/runtime/zero/stage_1_and_2.py at 0.19.8, move_to_cpu. Paged states may be
    here too, when the device has no room for them. What is saved is copied whole before it is
    written: safetensors/torch.py at 0.8.0, _flatten_as_ptr; transformers/modeling_utils.py at
    5.23.0 writes up to 50 GB in one file.
    """
    ranks = candidate.cluster.gpus_per_node
    if candidate.cluster.device == "cpu":
        return ranks * (candidate.memory.peak_allocated_bytes + PROCESS_BYTES)
    flattened = 0
    if candidate.layout.zero_stage in (1, 2):
        flattened = candidate.workload.trainable_params * BYTES[candidate.workload.compute]
    copied = min(disk_bytes(candidate), LARGEST_FILE_BYTES)
    resident = PROCESS_BYTES + _paged_bytes(candidate)
    return ranks * resident + max(ranks * flattened, copied)


def _paged_bytes(candidate: Candidate) -> int:
    """Optimizer states in CUDA managed memory."""
    workload, layout = candidate.workload, candidate.layout
    kinds = numerics(method=workload.method, compute=workload.compute, zero_stage=layout.zero_stage)
    states = states_bytes(
        optimizers()[workload.recipe.optimizer.name],
        counted_tensors(workload),
        width=kinds.home,
        device=candidate.cluster.device,
    )
    return ceil_div(states.paged, layout.world_size if layout.zero_stage else 1)


def disk_bytes(candidate: Candidate) -> int:
    """What is saved at the end: the model in the compute precision, or the adapter as trained."""
    workload = candidate.workload
    kinds = numerics(
        method=candidate.method, compute=workload.compute, zero_stage=candidate.layout.zero_stage
    )
    width = kinds.compute if candidate.method == "full" else kinds.trainable
    return workload.trainable_params * width
