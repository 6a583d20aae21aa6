"""The input of a model's first layer, on a tape of sizes."""

from planner.forward.decoder import Decoder
from planner.forward.norms import norm
from planner.tape import operators as ops
from planner.tape.embedding_operator import embedding
from planner.tape.tensors import Parameter, Tensor


def embedded(
    decoder: Decoder, table: Parameter, *, needs_gradient: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Return the first layer's input, and what the model's forward holds beside it to its end.

    ``needs_gradient`` is for peft's enable_input_require_grads: autograd holds such a leaf until
    its gradient is there.
    """
    model, tape, batch = decoder.workload.model, decoder.tape, decoder.batch
    x = embedding(
        tape,
        table,
        tokens=batch.tokens,
        hidden_size=model.hidden_size,
        device=batch.device,
        ranks=decoder.workload.tensor_ranks,
        tied=model.tied_embeddings,
    )
    if decoder.workload.tensor_ranks > 1:
        from planner.tape.collectives import summed  # only layers that are cut need it

        x = summed(tape, x, "embedding")
    if model.scaled_embeddings:
        x = ops.unary(tape, x, "embedding, scaled")
    if needs_gradient and not table.trains:
        leaf = Parameter(x.elements, x.width, trains=True, gradient_owner="activations")
        x.node, leaf.storage = leaf, x.storage
    if model.multipliers:
        x = ops.unary(tape, x, "embedding, scaled")
    held = [x]
    if model.positions == "learned":
        held.append(_positions(decoder))
        x = ops.add(tape, x, held[1], "embeddings with positions")
    if model.embedding_norm:
        x = norm(decoder, "embedding_norm", x)
    if model.embedding_dropout:
        x = ops.dropout(tape, x, device=batch.device)
    return x, held


def _positions(decoder: Decoder) -> Tensor:
    """Mirror GPT2Model.forward, whose positions are the same for every sample; OPT counts each
    sample's own."""
    model, batch = decoder.workload.model, decoder.batch
    return embedding(
        decoder.tape,
        decoder.parameter("embed_positions", model.position_params),
        tokens=batch.tokens if model.position_offset else batch.sequence_length,
        hidden_size=model.hidden_size,
        device=batch.device,
    )
