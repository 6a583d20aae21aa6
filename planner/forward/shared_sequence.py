"""Attention of ranks that share a sequence: tokens are exchanged for heads, and back.

Every rank comes with all heads of its tokens, attends with some heads to all tokens, and leaves
with all heads of its tokens again.

    L  tokens of a sequence     P  ranks that share it     b  samples     H, d  heads, head size

read: deepspeed/runtime/sequence_parallel/ulysses_sp.py at 0.19.8, UlyssesSPAttentionHF, whose
variables hold what is named here; deepspeed/sequence/layer.py, _dim_zero_all_to_all.
"""

from collections.abc import Callable

from msgspec import structs

from planner.tape import operators as ops
from planner.tape import view_operators as views
from planner.tape.attention_workspaces import HeadShape
from planner.tape.operators import INT64
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor

Attend = Callable[[Tensor, Tensor, Tensor, HeadShape], Tensor]
"""Attention of some heads to all tokens: its output, the heads of a token beside each other."""


def of_a_rank(shape: HeadShape, ranks: int) -> HeadShape:
    """Return what attention sees on each of so many ranks: all tokens, and a part of the heads. One
    of fewer key-value heads than ranks is on several."""
    return structs.replace(
        shape,
        length=shape.length * ranks,
        heads=shape.heads // ranks,
        key_value_heads=max(1, shape.key_value_heads // ranks),
    )


def shared_attention(
    tape: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attend: Attend,
    *,
    shape: HeadShape,
    ranks: int,
) -> Tensor:
    """Mirror UlyssesSPAttentionHF.forward for the tokens of one rank, which ``shape`` has the
    number of."""
    inside = of_a_rank(shape, ranks)
    _positions = [tape.new(inside.length, INT64, "positions of all ranks") for _ in range(2)]
    copies = max(1, ranks // shape.key_value_heads)
    queries = _of_all_tokens(tape, query, 1, inside.heads)
    keys = _of_all_tokens(tape, key, copies, inside.key_value_heads)
    values = _of_all_tokens(tape, value, copies, inside.key_value_heads)
    queries = _heads_first(tape, queries, inside.heads, shape.batch)
    keys = _heads_first(tape, keys, inside.key_value_heads, shape.batch)
    values = _heads_first(tape, values, inside.key_value_heads, shape.batch)
    context = attend(queries, keys, values, inside)
    return _of_all_heads(tape, context, shape.batch)


def _of_all_tokens(tape: Tape, x: Tensor, copies: int, heads: int) -> Tensor:
    """Mirror combine_sequence: the heads of each rank first, then the tokens of all for its own."""
    if copies > 1:
        x = ops.repeat_heads(tape, x, copies, shared=False)
    x = views.reordered(tape, x, "query, key or value")
    x = ops.contiguous(tape, x, "query, key or value, ranks first")
    return exchanged(tape, x, "query, key or value, exchanged", copies_gradient=heads > 1)


def _heads_first(tape: Tape, x: Tensor, heads: int, samples: int) -> Tensor:
    """Return queries, keys or values head by head, which one head of one sample is already."""
    if heads == 1 and samples == 1:
        return x
    return ops.contiguous(tape, x, "query, key or value, heads first")


def _of_all_heads(tape: Tape, context: Tensor, samples: int) -> Tensor:
    """Mirror _partition_global_sequence: the tokens of each rank, then all heads of its own. Tokens
    come before samples, and attention's module puts these first again."""
    if samples > 1:
        context = ops.contiguous(tape, context, "attention output, tokens first")
    output = exchanged(tape, context, "attention output, exchanged", copies_gradient=True)
    return ops.contiguous(tape, output, "attention output, heads joined")


def exchanged(tape: Tape, x: Tensor, name: str, *, copies_gradient: bool) -> Tensor:
    """Mirror _dim_zero_all_to_all: nothing is saved, and the gradient goes the same way, as a copy
    where it does not lie rank by rank."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        copied = None
        if copies_gradient:
            copied = tape.new(elements, width, f"gradient of {name}, copied")
        tape.comes_from_ranks()
        made = tape.new(elements, width, f"gradient of {name}")
        del copied
        return [made]

    tape.comes_from_ranks()
    return tape.record(tape.new(elements, width, name), (x,), (), backward)
