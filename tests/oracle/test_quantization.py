"""Bytes of 4-bit weights against bitsandbytes' own tensors."""

import pytest
import torch

from planner.quantization import nf4_bytes

functional = pytest.importorskip("bitsandbytes.functional")


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("shape", [(64, 64), (320, 576), (1000, 48), (1536, 576)])
def test_every_tensor_of_a_quantized_matrix_is_counted(
    shape: tuple[int, int], double_quant: bool
) -> None:
    packed, state = functional.quantize_4bit(
        torch.randn(shape), quant_type="nf4", compress_statistics=double_quant
    )
    tensors = [packed, state.absmax, state.code]
    if double_quant:
        tensors += [state.offset, state.state2.absmax, state.state2.code]
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert nf4_bytes(num_weights=shape[0] * shape[1], double_quant=double_quant) == held
