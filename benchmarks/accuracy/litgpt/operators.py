"""Operators of LitGPT's modules that the planner does not have.

read: tools/autograd/derivatives.yaml at torch 2.1, unless said otherwise.
"""

from planner.base.units import FP32_BYTES
from planner.tape.operators import INT64
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor
from planner.workload.quantization import BLOCK_SIZE as NF4_BLOCK


def layer_norm(
    tape: Tape, x: Tensor, weight: Tensor, bias: Tensor, *, rows: int, name: str
) -> Tensor:
    """``F.layer_norm``: saves the input, and mean and reciprocal deviation in fp32."""
    elements, width, size = x.elements, x.width, weight.elements
    needed = tuple(operand.node is not None for operand in (x, weight, bias))
    output = tape.new(elements, width, name)
    statistics = tuple(tape.new(rows, FP32_BYTES, f"{name}: statistics") for _ in range(2))

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        sizes = (elements, size, size)
        return [
            tape.new(count, width, f"gradient through {name}") if need else None
            for count, need in zip(sizes, needed, strict=True)
        ]

    return tape.record(output, (x, weight, bias), (x, *statistics), backward)


def row_means(tape: Tape, x: Tensor, *, rows: int) -> Tensor:
    """``torch.mean(x, dim=-1, keepdim=True)``: saves nothing."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, "gradient of the mean, expanded")]

    return tape.record(tape.new(rows, width, "mean"), (x,), (), backward)


def split(tape: Tape, x: Tensor, sizes: tuple[int, ...], name: str) -> list[Tensor]:
    """Return views of the parts; their gradients are held until all have arrived, and then
    joined."""
    arrived: list[Tensor] = []
    whole, width, parts = x.elements, x.width, len(sizes)

    def backward(gradient: Tensor) -> list[Tensor | None]:
        arrived.append(gradient)
        if len(arrived) < parts:
            return [None]
        made = tape.new(whole, width, f"gradient of {name}, joined")
        arrived.clear()
        return [made]

    views = [Tensor(size, width, x.storage, None) for size in sizes]
    return [tape.record(view, (x,), (), backward) for view in views]


def expanded(tape: Tape, x: Tensor, times: int, *, copied: bool) -> Tensor:
    """``x.expand(...).reshape(...)``: a view for one head, a copy for several; the gradient is
    summed either way."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, "gradient of expanded heads, summed")]

    if copied:
        output = tape.new(times * elements, width, "expanded heads")
    else:
        output = Tensor(times * elements, width, x.storage, None)
    return tape.record(output, (x,), (), backward)


def padded(tape: Tape, x: Tensor, *, elements: int, index: int) -> Tensor:
    """LoRAQKVLinear.zero_pad: copies columns into zeros, and saves the columns and their index.

    read: derivatives.yaml, index_copy: ``grad.index_select(dim, index).expand_as(source)``
    keeps the source.
    """
    small, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(small, width, "gradient of the columns")]

    output = tape.new(elements, width, "zeros for columns")
    where = tape.new(index, INT64, "index of the columns")
    copied = tape.new(elements, width, "columns among zeros")
    del output
    return tape.record(copied, (x,), (x, where), backward)


def grouped_convolution(
    tape: Tape, x: Tensor, weight: Tensor, *, elements: int, parts: int
) -> Tensor:
    """LoRAQKVLinear.conv1d: one convolution in groups, or one per part, joined."""
    small, width, weights = x.elements, x.width, weight.elements
    output = tape.new(elements, width, "lora_B by groups")
    if parts > 1:
        joined = tape.new(elements, width, "lora_B by parts, joined")
        output = joined

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [
            tape.new(small, width, "gradient of lora_A's output"),
            tape.new(weights, width, "gradient of lora_B"),
        ]

    return tape.record(output, (x, weight), (x,), backward)


def softmax_in_fp32(tape: Tape, scores: Tensor) -> Tensor:
    """``softmax(scores, dtype=torch.float)`` of an fp32 copy, which saves the result.

    read: aten/src/ATen/native/cuda/SoftMax.cu: the kernel of the gradient allocates ``grad *
    output``.
    """
    elements = scores.elements
    output = tape.new(elements, FP32_BYTES, "attention weights in fp32")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        _inside = tape.new(elements, FP32_BYTES, "gradient x output")
        return [tape.new(elements, FP32_BYTES, "gradient of the scores")]

    return tape.record(output, (scores,), (output,), backward)


def quantized_product(
    tape: Tape, x: Tensor, *, in_features: int, out_features: int, double_quant: bool, name: str
) -> Tensor:
    """Multiply with a 4-bit matrix, which is dequantized to fp16 and cast to bf16 each time.

    read: bitsandbytes/autograd/_functions.py at 0.41.1, MatMul4Bit, and Lightning's bitsandbytes.py
    at 2.1, which quantizes ``weight.to(dtype=torch.half)``, so the matrix is dequantized to that
    dtype.
    """
    elements, width, weights = x.elements, x.width, in_features * out_features

    def dequantized() -> Tensor:
        scales = weights // NF4_BLOCK
        _absmax = (
            tape.new(scales, FP32_BYTES, "scales in fp32", "workspace") if double_quant else None
        )
        _half = tape.new(weights, width, "dequantized weight, fp16", "workspace")
        return tape.new(weights, width, "dequantized weight, bf16", "workspace")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        _weight = dequantized()
        return [tape.new(elements, width, f"gradient of {name}'s input")]

    _weight = dequantized()
    output = tape.new(elements // in_features * out_features, width, name)
    return tape.record(output, (x,), (), backward)
