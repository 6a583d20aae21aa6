"""The indexer of sparse attention, as transformers 5.23 writes it, on a tape of sizes.

It runs without a graph, so that nothing is saved; its scores of all queries, heads and keys are
whole.

    B  samples     s  sequence_length     H  heads     d  head_dim
"""

from planner.base.units import FP32_BYTES
from planner.forward.decoder import Decoder, Layer
from planner.forward.norms import layer_norm
from planner.forward.rotary import Tables, turned, turned_pairs
from planner.models.expert_shape import IndexerSpec, LatentAttentionSpec
from planner.tape import operators as ops
from planner.tape.attention_kernels import operand
from planner.tape.tensors import Tensor

INT32 = 4


def chosen_keys(
    decoder: Decoder,
    layer: Layer,
    x: Tensor,
    latent_q: Tensor | None,
    tables: Tables,
    latent: LatentAttentionSpec,
) -> Tensor:
    """Mirror DeepseekV32Indexer.forward and GlmMoeDsaIndexer.forward: return the places of the keys
    of each query."""
    indexer = latent.indexer
    assert indexer is not None
    assert latent_q is not None
    with decoder.tape.no_grad():
        return _chosen(decoder, layer, x, latent_q, tables, indexer, latent.qk_rope_head_dim)


def _chosen(
    decoder: Decoder,
    layer: Layer,
    x: Tensor,
    latent_q: Tensor,
    tables: Tables,
    indexer: IndexerSpec,
    rope: int,
) -> Tensor:
    tape, batch = decoder.tape, decoder.batch
    tokens, heads, head_dim = batch.tokens, indexer.heads, indexer.head_dim
    whole_q = decoder.linear(layer, "wq_b", latent_q)
    whole_k = _keys(decoder, layer, x, head_dim)
    turn = turned_pairs if indexer.interleaved else turned
    parts = (
        ops.slice_of(tape, whole_q, tokens * heads * rope),
        ops.slice_of(tape, whole_k, tokens * rope),
    )
    q_rope, k_rope = (turn(tape, part, tables) for part in parts)
    rest = head_dim - rope
    q = ops.concatenate(
        tape, (q_rope, ops.slice_of(tape, whole_q, tokens * heads * rest)), "query of the indexer"
    )
    k = ops.concatenate(
        tape, (k_rope, ops.slice_of(tape, whole_k, tokens * rest)), "key of the indexer"
    )
    scores = _scores(decoder, q, k, indexer)
    weights = decoder.linear(layer, "weights_proj", x)
    weights = ops.cast(tape, weights, FP32_BYTES, "weights of the heads in fp32")
    weights = ops.unary(tape, weights, "weights of the heads, scaled")
    given = _operand(decoder, weights)
    summed = ops.matmul(tape, given, scores, batch.scores, "scores of the keys", rows=tokens)
    _hidden = tape.new(batch.scores, 1, "keys that are masked out")
    masked = tape.new(batch.scores, summed.width, "scores of the keys, masked")
    chosen = tokens * min(indexer.chosen_keys, batch.sequence_length)
    _values = tape.new(chosen, masked.width, "scores of the chosen keys")
    places = tape.new(chosen, ops.INT64, "places of the chosen keys")
    del summed, masked
    return ops.cast(tape, places, INT32, "places of the chosen keys")


def _keys(decoder: Decoder, layer: Layer, x: Tensor, head_dim: int) -> Tensor:
    keys = decoder.linear(layer, "wk", x)
    return layer_norm(decoder, f"{layer.place}.k_norm", keys, head_dim, has_bias=True)


def _scores(decoder: Decoder, q: Tensor, k: Tensor, indexer: IndexerSpec) -> Tensor:
    """Return ``relu(q.float() @ k.float() * scale)``, which autocast multiplies in 16 bit all the
    same: of several samples the keys are copied for every query, since a product takes one
    dimension of all samples and queries."""
    tape, batch = decoder.tape, decoder.batch
    q = ops.cast(tape, q, FP32_BYTES, "query of the indexer in fp32")
    k = ops.cast(tape, k, FP32_BYTES, "key of the indexer in fp32")
    elements, rows = batch.scores * indexer.heads, batch.tokens * indexer.heads
    queries, keys = _operand(decoder, q), _operand(decoder, k)
    if batch.micro_batch_size > 1:
        keys = tape.new(batch.scores * indexer.head_dim, keys.width, "keys of every query")
    scores = ops.matmul(tape, queries, keys, elements, "scores of the indexer", rows=rows)
    del q, k, queries, keys
    scores = ops.unary(tape, scores, "scores of the indexer, scaled")
    return ops.unary(tape, scores, "scores of the indexer, above zero")


def _operand(decoder: Decoder, x: Tensor) -> Tensor:
    """Return the tensor as autocast gives it to a product."""
    numerics = decoder.numerics
    return operand(decoder.tape, x, numerics.compute if numerics.autocast else None)


def mask_of_chosen(decoder: Decoder, chosen: Tensor) -> Tensor:
    """Return the mask that leaves each query the chosen keys, among those that it may see."""
    tape, elements = decoder.tape, decoder.batch.scores
    ones = tape.new(elements, 1, "mask of all keys")
    places = tape.new(chosen.elements, ops.INT64, "places of the chosen keys, to scatter")
    others = tape.new(elements, 1, "mask of the keys that are not chosen")
    del ones, places
    if decoder.workload.attention == "eager":
        return tape.new(elements, decoder.residual_width, "mask of the chosen keys")
    inverted = tape.new(elements, 1, "mask of the keys that are chosen")
    mask = tape.new(elements, 1, "mask of the chosen keys")
    del others, inverted
    return mask
