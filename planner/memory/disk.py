"""What a run writes: its result, and the checkpoints that it goes on from."""

from planner.hardware.cluster import Device
from planner.memory.model_states import model_states
from planner.recipes.recipe import Workload
from planner.workload.dtypes import Numerics, numerics_of
from planner.workload.layout import Layout
from planner.workload.optimizers import optimizers
from planner.workload.trained_tensors import counted_tensors


def result_bytes(workload: Workload, kinds: Numerics) -> int:
    """The model in the compute precision, or the adapter as trained. No optimizer states."""
    width = kinds.compute if workload.method == "full" else kinds.trainable
    return workload.trainable_params * width


def checkpoint_bytes(workload: Workload, layout: Layout, device: Device) -> int:
    """Of all ranks together: what trains and its optimizer states."""
    states = model_states(
        frozen_bytes=0,
        tensors=counted_tensors(workload),
        optimizer=optimizers()[workload.recipe.optimizer.name],
        numerics=numerics_of(workload, layout),
        zero_stage=0,
        data_parallel_size=1,
        device=device,
    )
    return states.trainable_bytes + states.optimizer_states_bytes
