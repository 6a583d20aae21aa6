"""Liger's kernels on a tape of sizes: they keep less, and write gradients over what they kept.

read: liger_kernel/ops at 0.2.1: rms_norm.py, swiglu.py, fused_linear_cross_entropy.py. Its
rotary kernel turns queries and keys in place, and saves the tables alone.
"""

from planner import operators as ops
from planner.autograd import Tape
from planner.operators import FP32
from planner.recipe import Batch
from planner.tensors import Parameter, Tensor
from planner.units import ceil_div


def fused_norm(tape: Tape, x: Tensor, weight: Parameter, *, rows: int, name: str) -> Tensor:
    """The input and its root mean squares are saved; the weight's gradient is made for every
    row, and the input's over the output's."""
    elements, width, trains, weights = x.elements, x.width, weight.trains, weight.elements
    output = tape.new(elements, width, f"{name}: output")
    roots = tape.new(rows, FP32, f"{name}: reciprocal root mean squares")

    def backward(gradient: Tensor) -> list[Tensor | None]:
        of_rows = tape.new(elements, width, f"{name}: gradient of the weight for every row")
        made = tape.new(weights, width, f"gradient of {name}'s weight") if trains else None
        del of_rows
        return [gradient.viewed(), made]

    return tape.record(output, (x, weight), (x, roots), backward)


def swiglu(tape: Tape, gate: Tensor, up: Tensor) -> Tensor:
    """Gate and up are saved, and their gradients written over them."""
    elements, width = gate.elements, gate.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [Tensor(elements, width, None, None) for _ in range(2)]

    output = tape.new(elements, width, "swiglu")
    return tape.record(output, (gate, up), (gate, up), backward, overwrites=True)


def turned_in_place(tape: Tape, x: Tensor) -> Tensor:
    """Queries or keys after the rotary kernel: the same bytes, and the same for the gradient."""

    def backward(gradient: Tensor) -> list[Tensor | None]:
        return [gradient.viewed()]

    return tape.record(x.viewed(), (x,), (), backward)


def fused_linear_loss(tape: Tape, hidden: Tensor, head: Parameter, *, batch: Batch) -> Tensor:
    """A chunk of logits at a time, in 16 bit, in fp32 and in 16 bit again; gradients of the
    hidden states and of the head are made in forward."""
    h = hidden.elements // batch.tokens
    scored = batch.tokens - batch.micro_batch_size
    vocab, width = head.elements // h, hidden.width
    hidden = ops.slice_of(tape, hidden, scored * h)
    if batch.micro_batch_size > 1:
        hidden = ops.contiguous(tape, hidden, "hidden states but the last")
    of_head = tape.new(head.elements, width, "gradient of the head")
    of_hidden = tape.new(hidden.elements, width, "gradient of the hidden states")
    losses = tape.new(scored, FP32, "losses")
    rows = min(scored, next_power_of_2(ceil_div(scored, ceil_div(vocab, h))))
    chunk = tape.new(rows * vocab, FP32, "logits of a chunk in fp32")
    again = tape.new(rows * vocab, width, "logits of a chunk")
    del chunk, again, losses
    trains, kept = head.trains, [of_hidden, of_head]

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        made_head, made_hidden = kept.pop(), kept.pop()
        return [made_hidden, made_head if trains else None]

    return tape.record(tape.new(1, FP32, "loss"), (hidden, head), (of_hidden, of_head), backward)


def next_power_of_2(number: int) -> int:
    """
    >>> next_power_of_2(381)
    512
    """
    return 1 << (number - 1).bit_length()
