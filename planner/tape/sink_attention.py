"""Attention with sinks and the clamped gate of gpt-oss, on a tape of sizes."""

from planner.hardware.cluster import Device
from planner.tape import operators as ops
from planner.tape import view_operators as views
from planner.tape.attention_kernels import operand, repeated_heads, scores
from planner.tape.attention_workspaces import HeadShape
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor


def sink_attention(
    tape: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor,
    *,
    shape: HeadShape,
    device: Device,
    compute: int | None,
    mask_width: int,
) -> tuple[Tensor, Tensor]:
    """Return the output and the weights of modeling_gpt_oss.py, eager_attention_forward: each
    head's sink is one more score, which is dropped after the softmax.

    transformers has no other attention for it but kernels of the hub.
    """
    key, value = repeated_heads(tape, key, value, shape)
    weights = scores(tape, operand(tape, query, compute), operand(tape, key, compute), shape)
    weights = ops.unary(tape, weights, "scaled scores")
    mask = Tensor(weights.elements, mask_width, None, None)
    weights = ops.add(tape, weights, mask, "masked scores")
    rows = shape.query_rows
    one_more = views.expanded(tape, sinks, rows // shape.heads)
    combined = ops.concatenate(tape, (weights, one_more), "scores with sinks")
    combined = _less_maximum(tape, combined, rows)
    probabilities = same_width_softmax(tape, combined, device=device)
    kept = ops.slice_of(tape, probabilities, weights.elements)
    weights = ops.cast(tape, kept, value.width, "attention weights")
    output = ops.matmul(
        tape,
        operand(tape, weights, compute),
        operand(tape, value, compute),
        shape.output_elements,
        "attention output",
        rows=rows,
    )
    return ops.contiguous(tape, output, "attention output, made contiguous"), weights


def _less_maximum(tape: Tape, x: Tensor, rows: int) -> Tensor:
    """Return ``x - x.max(dim=-1, keepdim=True).values``; the places of the maxima are saved."""
    elements, width = x.elements, x.width
    places = tape.new(rows, ops.INT64, "places of the maxima")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, "gradient of the maxima, scattered")]

    maxima = tape.record(tape.new(rows, width, "maxima"), (x,), (places,), backward)
    del places
    return views.subtract(tape, x, maxima, "scores less their maximum")


def same_width_softmax(tape: Tape, x: Tensor, *, device: Device) -> Tensor:
    """Return ``softmax(dtype=x.dtype)``, which is saved.

    read: aten/src/ATen/native/cuda/SoftMax.cu: the gradient's kernel makes ``grad * output``.
    """
    elements, width = x.elements, x.width
    output = tape.new(elements, width, "softmax")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        _inside = tape.new(elements, width, "gradient x output") if device == "cuda" else None
        return [tape.new(elements, width, "gradient of a softmax")]

    return tape.record(output, (x,), (output,), backward)


def clamped_gate(tape: Tape, both: Tensor) -> Tensor:
    """Return the result of GptOssExperts._apply_gate: gate and up lie side by side, and both are
    clamped."""
    half = both.elements // 2
    gate, up = (ops.slice_of(tape, both, half) for _ in range(2))
    gate = ops.unary(tape, gate, "gate, clamped", saves="input")
    up = ops.unary(tape, up, "up, clamped", saves="input")
    sigmoid = ops.unary(tape, ops.unary(tape, gate, "gate, scaled"), "sigmoid", saves="output")
    glu = ops.mul(tape, gate, sigmoid, "gate x sigmoid")
    del sigmoid
    return ops.mul(tape, ops.unary(tape, up, "up + 1"), glu, "gated product")
