"""What one of several ranks has of a model whose layers are cut over them: tensor parallelism.

A rank computes whole heads of attention, a part of the MLP's inner width, and rows of the table of
embeddings and of the head, for all tokens, at the whole hidden size; norms and the biases of what
is added to the residual stream are whole on every rank (Shoeybi et al., arXiv:1909.08053, section
3). So it is a narrower model, and what the ranks send each other on the way is in
planner/tape/collectives.py.

Some architectures have matrices of which a rank has a part while it needs all of what goes in and
comes out: one that holds several others, whose parts would be of one of them alone (Phi-3), one
whose output has a norm over all heads (OLMo-2), or one of a layer with a state (Qwen3.5). Outputs
are then gathered, and inputs cut, around the product, and what lies between is whole on every rank.

read: transformers at 5.23.0, models/*/configuration_*.py, base_model_tp_plan
(``colwise_gather_output`` and ``rowwise_split_input`` are what is around a product);
models/*/modeling_*.py, _tp_plan; distributed/mixin.py, init_parallel_plans, which cuts the
embeddings by rows.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from planner.base.units import ceil_div
from planner.models.layer_kinds import LayerKind
from planner.models.linear import Linear
from planner.models.model_spec import ModelSpec

_DELTA = frozenset({"in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"})
COLUMNS = _DELTA | {
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "gate_proj",
    "up_proj",
    "gate_up_proj",
}
"""Roles of the matrices that are cut by their outputs."""
ROWS = frozenset({"o_proj", "down_proj"})
"""Roles of those that are cut by their inputs, whose products are summed over the ranks."""

_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj"})
_MLP = frozenset({"gate_up_proj", "down_proj"})
AROUND_PRODUCTS: Mapping[str, frozenset[str]] = {
    "glm": _MLP,
    "glm4": _MLP,
    "olmo2": _ATTENTION,
    "olmo3": _ATTENTION,
    "phi3": _ATTENTION | _MLP,
    "qwen3_5_text": _DELTA,
}
"""Roles of the matrices, by architecture, that have whole inputs and outputs on every rank."""


class CutLinear(Linear, frozen=True, kw_only=True):
    """A matrix of which a rank has a part, and all of its input and its output."""

    parts: int
    """Number of ranks."""

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs of the rank's part."""
        if self.key in ROWS:
            return self.out_features, self.in_features // self.parts
        return self.out_features // self.parts, self.in_features

    @property
    def weight_params(self) -> int:
        return self.in_features * self.out_features // self.parts

    @property
    def num_params(self) -> int:
        return self.weight_params + (self.shape[0] if self.bias else 0)


class SlicedSpec(ModelSpec):
    """A rank's part of a model that has such matrices."""

    ranks: int = 1

    def linears(self, kind: LayerKind) -> tuple[Linear, ...]:
        roles = AROUND_PRODUCTS[self.model_type]
        return tuple(
            CutLinear(**structs.asdict(matrix), parts=self.ranks) if matrix.key in roles else matrix
            for matrix in super().linears(kind)
        )


def sliced(model: ModelSpec, ranks: int) -> ModelSpec:
    """Return what the first of so many ranks has of a model: no other has more rows of the
    vocabulary, whose last part may be smaller."""
    parts = {name: getattr(model, name) // ranks for name in _narrower(model.model_type)}
    parts["vocab_size"] = ceil_div(model.vocab_size, ranks)
    if model.model_type not in AROUND_PRODUCTS:
        return structs.replace(model, **parts)
    return SlicedSpec(**structs.asdict(model) | parts, ranks=ranks)


def _narrower(model_type: str) -> tuple[str, ...]:
    """Return the fields of a shape of which a rank has a part."""
    whole = AROUND_PRODUCTS.get(model_type, frozenset())
    heads = () if "o_proj" in whole else ("num_attention_heads", "num_key_value_heads")
    inner = () if "down_proj" in whole else ("intermediate_size",)
    return (*heads, *inner)


def is_even(known: Mapping[str, Any], ranks: int) -> bool:
    """Return whether each rank can have as much of a layer as the others; True where the fields of
    a shape, or the keys of a ``config.json``, do not say."""
    names = _narrower(str(known.get("model_type")))
    sizes = [known.get(name) for name in (*names, "intermediate_size")]
    heads, others = known.get("num_attention_heads"), known.get("num_key_value_heads")
    if "num_attention_heads" not in names and heads:
        head_dim = known.get("head_dim") or known["hidden_size"] // heads
        sizes += [heads * head_dim, (others or heads) * head_dim]
    delta = known.get("delta")
    sizes.append(delta.value_heads if delta else known.get("linear_num_value_heads"))
    return not any(size % ranks for size in sizes if isinstance(size, int))
