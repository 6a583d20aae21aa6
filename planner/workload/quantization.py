"""Bytes of quantized weights, each constant as its own term.

NF4, source: Dettmers et al., "QLoRA", arXiv:2305.14314, section 3, as bitsandbytes stores it
(bitsandbytes/functional.py, quantize_4bit, at 0.50.2): two 4-bit codes per byte; one scale for each
block of 64 weights; with double quantization that scale is one byte, and 256 scales share an fp32
constant; an fp32 offset; the 16 code values and, with double quantization, the 256 values of the
scales' code.

int8, source: Dettmers et al., "LLM.int8()", arXiv:2208.07339, section 3, as bitsandbytes stores it
(bitsandbytes/nn/modules.py, Int8Params, at 0.50.2): one byte per weight, and one fp32 scale per
row.
"""

from msgspec import structs

from planner.base.units import FP32_BYTES, ceil_div
from planner.models.linear import Linear
from planner.models.model_spec import ModelSpec
from planner.plan.schema import QuantizationSection

BLOCK_SIZE = 64
DOUBLE_QUANT_BLOCK_SIZE = 256
NF4_CODE_BYTES = 16 * FP32_BYTES
DOUBLE_QUANT_CODE_BYTES = 256 * FP32_BYTES


def nf4_bytes(*, num_weights: int, double_quant: bool) -> int:
    """Return the bytes of one NF4 matrix on the device.

    ChatGLM3-6B's fused gate-and-up matrix, 4.127 bits per weight:

    >>> nf4_bytes(num_weights=4096 * 27392, double_quant=True)
    57880388
    """
    packed = ceil_div(num_weights, 2)
    blocks = ceil_div(num_weights, BLOCK_SIZE)
    if not double_quant:
        return packed + blocks * FP32_BYTES + NF4_CODE_BYTES
    constants = ceil_div(blocks, DOUBLE_QUANT_BLOCK_SIZE) * FP32_BYTES
    return packed + blocks + constants + FP32_BYTES + NF4_CODE_BYTES + DOUBLE_QUANT_CODE_BYTES


def with_experts(quantization: QuantizationSection, model: ModelSpec) -> QuantizationSection:
    """Return the quantization of a model's routed experts, too, where they can be packed."""
    packs = quantization.quant_type == "nf4" and model.packable_expert_params > 0
    return structs.replace(quantization, experts=packs)


def int8_bytes(*, in_features: int, out_features: int) -> int:
    """Return the bytes of one int8 matrix on the device.

    >>> int8_bytes(in_features=4096, out_features=27392)
    112307200
    """
    return in_features * out_features + out_features * FP32_BYTES


def quantized_bytes(matrix: Linear, quantization: QuantizationSection) -> int:
    """Return the bytes of one matrix on the device, as the plan quantizes it."""
    if quantization.quant_type == "int8":
        return int8_bytes(in_features=matrix.in_features, out_features=matrix.out_features)
    return nf4_bytes(num_weights=matrix.weight_params, double_quant=quantization.double_quant)


def loading_copy_width(quantization: QuantizationSection) -> int:
    """Return the bytes per weight of the copy that a matrix is quantized from, beside the loaded
    one: int8 starts from a copy in fp16 (bitsandbytes/nn/modules.py at 0.50.2,
    Int8Params._quantize)."""
    return 2 if quantization.quant_type == "int8" else 0


def quantized_tensors(matrix: Linear, quantization: QuantizationSection) -> tuple[int, ...]:
    """Return :func:`quantized_bytes` as the large tensors, each alone, and the rest."""
    whole = quantized_bytes(matrix, quantization)
    if quantization.quant_type == "int8":
        return matrix.weight_params, whole - matrix.weight_params
    packed = ceil_div(matrix.weight_params, 2)
    scales = ceil_div(matrix.weight_params, BLOCK_SIZE)
    if not quantization.double_quant:
        scales *= FP32_BYTES
    return packed, scales, whole - packed - scales
