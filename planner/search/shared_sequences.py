"""Whether the ranks of a node can share one sequence, each with a part of its tokens.

read: deepspeed/runtime/sequence_parallel/ulysses_sp.py at 0.19.8, UlyssesSPAttentionHF: heads are
shared equally, key-value heads too or each by as many ranks (__init__); keys and values have one
shape (forward); the mask that a model makes is dropped, so that attention is causal over the whole
sequence and no more (uattn_wrapper).
accelerate/big_modeling.py at 1.15.0, _refuse_recurrent_layers_under_sequence_parallelism: a state
that goes from token to token would begin anew on each rank.
"""

from planner.base.phrases import Phrase
from planner.models.model_spec import ModelSpec
from planner.models.traced_model import TracedSpec


def obstacle(
    model: ModelSpec | None, ranks: int, *, sequence_length: int | None, gpus_per_node: int
) -> Phrase | None:
    """Return why so many ranks cannot share a sequence of the model; None where they can."""
    if gpus_per_node % ranks:
        return Phrase(
            "the GPUs of one sequence are on one node, which has {gpus}", gpus=gpus_per_node
        )
    if sequence_length is not None and sequence_length % ranks:
        return Phrase("{length:,} tokens are not a multiple of it", length=sequence_length)
    if model is None or isinstance(model, TracedSpec):
        return Phrase("there are no formulas for this model")
    if model.num_attention_heads % ranks:
        return Phrase(
            "GPUs share the {heads} heads of attention equally", heads=model.num_attention_heads
        )
    key_values = model.num_key_value_heads
    if key_values % ranks and ranks % key_values:
        return Phrase(
            "GPUs share the {heads} key-value heads equally, or each is on as many GPUs",
            heads=key_values,
        )
    return _of_architecture(model)


def _of_architecture(model: ModelSpec) -> Phrase | None:
    """Return what of an architecture reads more of a sequence than causal attention does."""
    if any(kind.recurrent for kind in model.kinds):
        return Phrase("layers with a state would begin anew on each GPU")
    if any(kind.sliding_window is not None for kind in model.kinds):
        return Phrase("DeepSpeed drops the mask of attention within a window")
    if model.towers:
        return Phrase("models of images and of sound have sequences of their own")
    if model.latent is not None:
        return Phrase("DeepSpeed exchanges keys and values of the same size alone")
    return None
