"""Bytes of 4-bit weights against bitsandbytes' own tensors."""

import pytest
import torch

from planner.models.linear import Linear
from planner.plan.schema import QuantizationSection
from planner.workload.quantization import int8_bytes, nf4_bytes, quantized_bytes, quantized_tensors

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


@pytest.mark.parametrize("shape", [(64, 64), (320, 576), (1000, 48)])
def test_an_int8_matrix_has_a_byte_a_weight_and_a_scale_a_row(shape: tuple[int, int]) -> None:
    parameters = pytest.importorskip("bitsandbytes").nn.Int8Params
    held = parameters(torch.randn(shape), requires_grad=False).to("cpu")
    found = sum(tensor.numel() * tensor.element_size() for tensor in (held.data, held.SCB))
    assert held.CB.data_ptr() == held.data.data_ptr()
    assert int8_bytes(in_features=shape[1], out_features=shape[0]) == found


@pytest.mark.parametrize(
    "quantization",
    [
        QuantizationSection(quant_type="nf4", double_quant=True),
        QuantizationSection(quant_type="nf4"),
        QuantizationSection(quant_type="int8"),
    ],
)
def test_tensors_of_a_matrix_sum_to_the_whole(quantization: QuantizationSection) -> None:
    matrix = Linear(name="x", in_features=576, out_features=1536)
    whole = quantized_bytes(matrix, quantization)
    assert sum(quantized_tensors(matrix, quantization)) == whole
    assert min(quantized_tensors(matrix, quantization)) > 0
