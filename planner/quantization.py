"""Bytes of 4-bit weights, each constant as its own term.

Source: Dettmers et al., "QLoRA", arXiv:2305.14314, section 3, as bitsandbytes stores it
(bitsandbytes/functional.py, quantize_4bit, at 0.50.2): two 4-bit codes a byte; one
scale for each block of 64 weights; with double quantization that scale is one byte, and
256 scales share an fp32 constant; an fp32 offset; the 16 code values and, with double
quantization, the 256 values of the scales' code.
"""

from planner.units import ceil_div

BLOCK_SIZE = 64
DOUBLE_QUANT_BLOCK_SIZE = 256
FP32_BYTES = 4
NF4_CODE_BYTES = 16 * FP32_BYTES
DOUBLE_QUANT_CODE_BYTES = 256 * FP32_BYTES


def nf4_bytes(*, num_weights: int, double_quant: bool) -> int:
    """Bytes of one matrix on the device.

    ChatGLM3-6B's fused gate-and-up matrix, 4.127 bits a weight:

    >>> nf4_bytes(num_weights=4096 * 27392, double_quant=True)
    57880388
    """
    packed = ceil_div(num_weights, 2)
    blocks = ceil_div(num_weights, BLOCK_SIZE)
    if not double_quant:
        return packed + blocks * FP32_BYTES + NF4_CODE_BYTES
    constants = ceil_div(blocks, DOUBLE_QUANT_BLOCK_SIZE) * FP32_BYTES
    return packed + blocks + constants + FP32_BYTES + NF4_CODE_BYTES + DOUBLE_QUANT_CODE_BYTES
