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

COLUMNS = frozenset({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"})
"""Roles of the matrices that are cut by their outputs."""
ROWS = frozenset({"o_proj", "down_proj"})
"""Roles of those that are cut by their inputs, whose products are summed over the ranks."""
