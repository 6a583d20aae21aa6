"""Floating point operations of one rank for one micro-batch. A multiply-add counts as two.

    T  tokens    s  sequence_length    q  query size (heads x head_dim)    V  vocab_size

Of routed experts only those count that a token is sent to.

Source: Kaplan et al., arXiv:2001.08361, section 2.1 (2 N T forward, twice that backward), split
here by what is differentiated: the gradient of an input costs as much as the forward pass, the
gradient of a weight as much again, and a frozen weight has none.
"""

from msgspec import Struct

from planner.base.units import ceil_div
from planner.models.model_spec import ModelSpec
from planner.models.traced_model import TracedSpec
from planner.workload.workload import Batch, Workload

CAUSAL = 0.5
"""Share of the scores that a causal mask leaves; fused kernels skip the others."""
ATTENTION_BACKWARD = 2.5
"""Operations of backward over those of forward in fused attention: five products of scores against
two (Dao, arXiv:2307.08691, section 3.1.2)."""


class Flops(Struct, frozen=True):
    """Operations of one micro-batch."""

    forward: int
    backward: int
    recompute: int

    @property
    def model(self) -> int:
        """Operations that the mathematics asks for: the numerator of MFU."""
        return self.forward + self.backward

    @property
    def hardware(self) -> int:
        """Operations that the device executes: the numerator of HFU."""
        return self.model + self.recompute


def recomputed_share(num_layers: int, checkpointing: int) -> float:
    """Return the share of layers that are recomputed.

    >>> recomputed_share(28, 0), recomputed_share(28, 1), recomputed_share(28, 4)
    (0.0, 1.0, 0.25)
    """
    return ceil_div(num_layers, checkpointing) / num_layers if checkpointing else 0.0


def micro_batch_flops(workload: Workload, batch: Batch, *, checkpointing: int) -> Flops:
    """Return the operations of one micro-batch of full samples; every ``checkpointing``-th layer is
    recomputed, no layer where it is 0."""
    model, tokens = workload.model, batch.tokens
    matrices = 2 * tokens * active_weights(model)
    scored = sum(
        count * model.scored_size(kind) for kind, count in model.kinds.items() if kind.attends
    )
    attention = round(2 * tokens * batch.sequence_length * scored * CAUSAL)
    head = 2 * tokens * model.embedding_params
    adapters = 2 * tokens * workload.adapter_products
    trains_all = workload.method == "full"
    fused = workload.loss == "fused"
    backward = (
        matrices * (2 if trains_all else 1)
        + round(attention * ATTENTION_BACKWARD)
        + head * (2 if trains_all else 1)
        + (1 if workload.trains_vectors else 2) * adapters
    )
    layers = matrices + attention + adapters
    recompute = round(layers * recomputed_share(model.num_layers, checkpointing))
    recompute += head if fused else 0
    return Flops(forward=layers + head, backward=backward, recompute=recompute)


def active_weights(model: ModelSpec) -> int:
    """Return the weights of all layers' matrices that one token is multiplied with."""
    if isinstance(model, TracedSpec):
        return model.active_weights
    matrices = sum(count * linear.weight_params for linear, count in model.adaptable_linears)
    if model.experts is None:
        return matrices
    return matrices + routed_layers(model) * model.experts.active_weights(model.hidden_size)


def routed_layers(model: ModelSpec) -> int:
    """Return the number of layers with routed experts."""
    return sum(count for kind, count in model.kinds.items() if kind.routed)
