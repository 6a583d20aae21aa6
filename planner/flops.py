"""Floating point operations of one rank for one micro-batch. A multiply-add counts as two.

    T  tokens    s  sequence_length    q  query size (heads x head_dim)    V  vocab_size

Of routed experts only those count that a token is sent to.

Source: Kaplan et al., arXiv:2001.08361, section 2.1 (2 N T forward, twice that backward),
split here by what is really differentiated: the gradient of an input costs as much as the
forward pass, the gradient of a weight as much again, and a frozen weight has none.
"""

from dataclasses import dataclass

from planner.recipe import Batch, Workload

CAUSAL = 0.5
"""Half of the scores are masked, and the fused kernels skip them."""
ATTENTION_BACKWARD = 2.5
"""Backward over forward of fused attention: five products of scores against two
(Dao, arXiv:2307.08691, section 3.1.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    forward: int
    backward: int
    recompute: int

    @property
    def model(self) -> int:
        """What the mathematics asks for: the numerator of MFU."""
        return self.forward + self.backward

    @property
    def hardware(self) -> int:
        """What the device executes: the numerator of HFU."""
        return self.model + self.recompute


def micro_batch_flops(workload: Workload, batch: Batch, *, checkpointing: bool) -> Flops:
    """Forward, backward and recomputation of one micro-batch at full length."""
    model, tokens = workload.model, batch.tokens
    matrices = 2 * tokens * model.active_weights
    scores = 2 * tokens * batch.sequence_length * model.scored_size
    attention = round(model.num_layers * scores * CAUSAL)
    head = 2 * tokens * model.embedding_params
    adapters = 2 * tokens * workload.adapter_params
    trains_all = workload.method == "full"
    fused = workload.recipe.loss == "fused"
    backward = (
        matrices * (2 if trains_all else 1)
        + round(attention * ATTENTION_BACKWARD)
        + head * (2 if trains_all else 1)
        + 2 * adapters
    )
    layers = matrices + attention + adapters
    recompute = (layers if checkpointing else 0) + (head if fused else 0)
    return Flops(forward=layers + head, backward=backward, recompute=recompute)
