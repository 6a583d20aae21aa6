"""Memory to build one tensor of a layer's experts, which a checkpoint stores expert by expert.

read: transformers/core_model_loading.py at 5.23.0. Every matrix of every expert goes to the device
as it is in the file (_materialize_copy, line 1319). Then MergeModulelist (line 254) stacks the gate
matrices and then the up matrices, dropping the single ones of each, and Concatenate (line 182)
joins both stacks: beside all else, gate_up_proj stands beside the two stacks that it is made of.
For down_proj the single matrices and the stack are half of that. Experts without a gate have a
stack of up matrices alone, beside the single ones.

Up to four threads read ahead of the stacking without a limit (lines 1316 and 1731), so that all
that is not stacked yet may be there as single matrices: the stacks come on top of all weights.

A model that is quantized on the way is not read ahead (line 1721): each parameter's matrices are
read when its turn comes, by name. Of the last layer down_proj is there before its gate and up;
attention and shared experts come after, and are counted all the same. Experts that are quantized
themselves are in planner/memory/quantized_loading.py. Where the matrices are called
w1, w2 and w3 it is w1 and w3 first, so that the peak is lower by down_proj, and the same again when
that is stacked.

Under ZeRO-3 the first rank stacks in host memory, where the single matrices are pages of the files,
and hands out each parameter before the next is made (integrations/deepspeed.py,
_apply_weight_conversions_to_state_dict, line 337).
"""

from planner.memory.quantized_loading import (
    STACKED_BEFORE_DOWN,
    STORED_STACKED,
    quantized_from,
)
from planner.models.traced_model import TracedSpec
from planner.workload.dtypes import Numerics
from planner.workload.workload import Workload


def stacked_params(workload: Workload) -> int:
    """Return the weights of one layer's gate and up matrices of all experts; 0 where nothing is
    stacked, or all is packed at once."""
    model = workload.model
    if isinstance(model, TracedSpec):
        return model.stacked_params
    if model.experts is None or model.model_type in STORED_STACKED:
        return 0
    first = model.experts.first
    if any(each.name == first for kind in model.kinds for each in workload.packed_experts(kind)):
        return 0
    return model.experts.expert_tensors(model.hidden_size)[first]


def stacked_on_host(workload: Workload, kinds: Numerics) -> int:
    """Return the bytes beside the files on the first rank under ZeRO-3: both stacks and
    gate_up_proj."""
    return 2 * stacked_params(workload) * kinds.compute


def stacked_at_once(workload: Workload) -> int:
    """Return the stacked weights beside all others on the device at the largest moment."""
    halves = workload.method == "qlora" and workload.model.model_type in STACKED_BEFORE_DOWN
    return stacked_params(workload) // (2 if halves else 1)


def loading_bytes(workload: Workload, kinds: Numerics) -> int:
    """Return bytes on the device beside the weights: the larger of the stacks of a layer's experts
    and of what a matrix is quantized from."""
    width = kinds.trainable if workload.method == "full" else kinds.outside
    return max(stacked_at_once(workload) * width, quantized_from(workload, kinds))
