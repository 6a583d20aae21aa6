"""What one of several ranks has of a model whose layers are cut over them: tensor parallelism.

A rank computes whole heads of attention, a part of the MLP's inner width, and rows of the table of
embeddings and of the head, for all tokens, at the whole hidden size; norms and the biases of what
is added to the residual stream are whole on every rank (Shoeybi et al., arXiv:1909.08053, section
3). So it is a narrower model, and what the ranks send each other on the way is in
planner/tape/collectives.py.

read: transformers at 5.23.0, models/llama/configuration_llama.py, base_model_tp_plan;
models/llama/modeling_llama.py, _tp_plan; distributed/mixin.py, init_parallel_plans, which cuts the
embeddings by rows.
"""

from msgspec import structs

from planner.base.bounded_cache import bounded_cache
from planner.workload.layout import Layout
from planner.workload.workload import Workload

COLUMNS = frozenset({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"})
"""Roles of the matrices that are cut by their outputs."""
ROWS = frozenset({"o_proj", "down_proj"})
"""Roles of those that are cut by their inputs, whose products are summed over the ranks."""
CUT_SIZES = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
"""Keys of ``config.json``, and fields of a model's shape, of what is cut into equal parts."""


def of_a_rank(workload: Workload, layout: Layout) -> Workload:
    """Return what one rank of a layout computes: the workload itself unless layers are cut."""
    if layout.strategy != "tensor":
        return workload
    return _sliced(workload, layout.world_size)


@bounded_cache
def _sliced(workload: Workload, ranks: int) -> Workload:
    parts = {name: getattr(workload.model, name) // ranks for name in CUT_SIZES}
    narrower = structs.replace(workload.model, **parts)
    return structs.replace(workload, model=narrower, tensor_ranks=ranks)
