"""Attention kernels as bytes: what they save, and what they allocate inside."""

from dataclasses import dataclass

from planner.autograd import Tape
from planner.gpu import Device
from planner.operators import FP32
from planner.tensors import Tensor
from planner.units import round_up

FLASH_ROWS = 128
FLASH_HEAD = 32
"""read: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, mha_bwd: sequence
lengths are rounded up to it, head sizes to 32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadShape:
    """Queries, keys and values of one micro-batch as attention sees them."""

    batch: int
    length: int
    heads: int
    key_value_heads: int
    head_dim: int

    @property
    def query_rows(self) -> int:
        return self.batch * self.heads * self.length


def fused_attention(
    tape: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    *,
    shape: HeadShape,
    device: Device,
) -> Tensor:
    """Scaled dot product attention: scores are never whole, their log-sum-exp is saved."""
    sizes = tuple((x.elements, x.width) for x in (query, key, value))
    output = tape.new(query.elements, query.width, "attention output")
    statistics = tape.new(shape.query_rows, FP32, "log-sum-exp of the scores")
    saved = (query, key, value, output, statistics, *((bias,) if bias is not None else ()))

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        _inside = _attention_workspace(tape, shape, sizes[0][1]) if device == "cuda" else None
        return [
            tape.new(size, width, f"gradient of the {name}")
            for (size, width), name in zip(sizes, ("query", "key", "value"), strict=True)
        ]

    return tape.record(output, (query, key, value), saved, backward)


def _attention_workspace(tape: Tape, shape: HeadShape, width: int) -> list[Tensor]:
    """What the gradient's kernel allocates: the query's in fp32, a row sum, and keys' and
    values' for every query head of a group before they are summed.

    read: flash_api.cpp, mha_bwd: dq_accum, softmax_d, dk_expanded, dv_expanded. The memory
    efficient kernel, for masks and older cards, accumulates the query's too
    (mem_eff_attention/kernel_backward.h, workspace_elements_gq) and sums rows (delta).
    """
    rows = shape.batch * shape.heads * round_up(shape.length, FLASH_ROWS)
    made = [
        tape.new(
            rows * round_up(shape.head_dim, FLASH_HEAD), FP32, "gradient of the query in fp32"
        ),
        tape.new(rows, FP32, "row sums"),
    ]
    if shape.heads != shape.key_value_heads:
        expanded = shape.query_rows * shape.head_dim
        made += [tape.new(expanded, width, "gradient of expanded heads") for _ in range(2)]
    return made
