"""Private parts of bitsandbytes: its layers, its operators, and steps of it that a trace replaces.

read: bitsandbytes 0.50.2.
"""

import logging
from collections.abc import Sequence
from typing import Any

import bitsandbytes
import torch
from bitsandbytes import functional
from bitsandbytes.autograd._functions import MatMul8bitLt
from bitsandbytes.optim import AdEMAMix
from bitsandbytes.optim.optimizer import GlobalOptimManager, Optimizer8bit

from launcher.compat.replacement import Replacement, do_nothing

_OPERATORS = torch.ops.bitsandbytes
_BLOCK_ELEMENTS = 64
"""Elements that share a scale; read: bitsandbytes/nn/modules.py, Params4bit."""
_STATISTICS_BLOCK_ELEMENTS = 256
"""Scales that share a scale; read: bitsandbytes/functional.py, quantize_4bit."""
_LEAST_PAGED_ELEMENTS = 1e5
"""read: bitsandbytes/optim/optimizer.py, Optimizer8bit.get_state_buffer."""


class Operators:
    """Operators of bitsandbytes that launcher/rehearsal/operator_rules.py has rules for."""

    DEQUANTIZE_4BIT = _OPERATORS.dequantize_4bit.default
    DEQUANTIZE_BLOCKWISE = _OPERATORS.dequantize_blockwise.default
    INT8_PRODUCT = _OPERATORS.int8_mixed_scaled_mm.default
    INT8_QUANTIZE = _OPERATORS.int8_vectorwise_quant.default
    PRODUCT_4BIT = _OPERATORS.gemm_4bit.default


class Packed4bit(bitsandbytes.nn.Linear4bit):  # type: ignore[misc]
    """A 4-bit layer around a plain parameter: the library's own does not wrap fake tensors.

    ``weight`` is the whole matrix of shape (out, in) until ``quantize`` packs another into it.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, settings: Any) -> None:
        torch.nn.Module.__init__(self)
        self.out_features, self.in_features = int(weight.shape[0]), int(weight.shape[1])
        self.compute_dtype = settings.bnb_4bit_compute_dtype
        self.compute_type_is_set = True
        self.support_avx512bf16_for_cpu = False
        self.quant_storage = settings.bnb_4bit_quant_storage
        self.quant_state: Any = None
        self.settings = settings
        self.bias = bias
        self._hold(weight)

    def quantize(self, whole: torch.Tensor) -> None:
        """Take the packed form of a whole matrix as the weight."""
        packed, state = functional.quantize_4bit(
            whole,
            compress_statistics=self.settings.bnb_4bit_use_double_quant,
            quant_type=self.settings.bnb_4bit_quant_type,
            quant_storage=self.quant_storage,
        )
        self._hold(packed)
        self.weight.quant_state = self.quant_state = state

    def dequantized(self) -> Any:
        """Return the whole matrix; None before ``quantize``."""
        if self.quant_state is None:
            return None
        return functional.dequantize_4bit(self.weight.data, self.quant_state)

    @property
    def storages(self) -> tuple[torch.Tensor, ...]:
        """Tensors that a quantized matrix keeps."""
        return self.weight, *constants(self.quant_state)

    def _hold(self, weight: torch.Tensor) -> None:
        """Set the weight, with the attributes that peft reads of it."""
        held: Any = torch.nn.Parameter(weight.detach(), requires_grad=False)
        held.compress_statistics = self.settings.bnb_4bit_use_double_quant
        held.quant_type = self.settings.bnb_4bit_quant_type
        self.weight = held


def constants(state: Any) -> tuple[torch.Tensor, ...]:
    """Return the tensors that 4-bit codes are unpacked by."""
    scales = (state.offset, state.state2.absmax, state.state2.code) if state.nested else ()
    return (state.absmax, state.code, *scales)


def scales_of(state: Any) -> torch.Tensor:
    """Return the fp32 scales that 4-bit codes are unpacked by."""
    scales: torch.Tensor = state.absmax
    if state.nested:
        second = state.state2
        scales = dequantize_scales(scales, second.absmax, second.code)
        scales += state.offset
    return scales


class PackedInt8(bitsandbytes.nn.Linear8bitLt):  # type: ignore[misc]
    """An int8 layer around a plain parameter, for the same reason as ``Packed4bit``."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, settings: Any) -> None:
        torch.nn.Module.__init__(self)
        self.out_features, self.in_features = int(weight.shape[0]), int(weight.shape[1])
        self.index = None
        self.state = bitsandbytes.MatmulLtState()
        self.state.has_fp16_weights = False
        self.state.threshold = settings.llm_int8_threshold
        self.bias = bias
        self._hold(weight)

    def quantize(self, whole: torch.Tensor) -> None:
        """Take the int8 codes of a whole matrix as the weight, by way of a copy in fp16."""
        half = whole.to(torch.float16, copy=True)
        codes, scales, _ = functional.int8_vectorwise_quant(half)
        self._hold(codes)
        self.state.CB, self.state.SCB = self.weight.data, scales

    @property
    def storages(self) -> tuple[torch.Tensor, ...]:
        """Tensors that a quantized matrix keeps."""
        return self.weight, self.state.SCB

    def _hold(self, weight: torch.Tensor) -> None:
        """Set the weight, with the attributes that the layer's forward reads of it."""
        held: Any = torch.nn.Parameter(weight.detach(), requires_grad=False)
        held.CB = held.SCB = None
        self.weight = held


def move_constants(module: Any, device: torch.device) -> None:
    """Move what bitsandbytes keeps beside packed weights, which are parameters without it."""
    for inside in module.modules():
        state = getattr(inside, "quant_state", None)
        if state is not None:
            state.to(device)


def packed_elements(model: Any) -> dict[str, int]:
    """Return how many numbers each parameter stands for that is packed in 4 bit, by name."""
    return {
        _packed_name(name, module): int(state.shape.numel())
        for name, module in model.named_modules()
        if (state := getattr(module, "quant_state", None)) is not None
    }


def _packed_name(name: str, module: Any) -> str:
    """Return the name of the parameter that a module unpacks: its own weight, or what is behind
    it as a parametrization of another's."""
    if isinstance(module, bitsandbytes.nn.Linear4bit):
        return f"{name}.weight"
    return f"{name.rpartition('.')[0]}.original"


def packed_and_unpacked(
    matrix: torch.Tensor, *, quant_type: str, double_quant: bool
) -> torch.Tensor:
    """Return the matrix as a 4-bit or int8 layer multiplies with it, in the dtype it has."""
    whole: torch.Tensor
    if quant_type == "int8":
        codes, scales, _ = functional.int8_vectorwise_quant(matrix.to(torch.float16))
        whole = functional.int8_vectorwise_dequant(codes, scales).to(matrix.dtype)
    else:
        packed, state = functional.quantize_4bit(
            matrix,
            blocksize=_BLOCK_ELEMENTS,
            compress_statistics=double_quant,
            quant_type=quant_type,
        )
        whole = functional.dequantize_4bit(packed, state)
    return whole


def dequantize_before_product(
    packed: torch.Tensor,
    shape: Any,
    absmax: torch.Tensor,
    blocksize: int,
    quant_type: str,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return the whole weight of a 4-bit product.

    read: bitsandbytes/backends/cuda/ops.py, _dequant_linear_fallback, for more than 1,536 tokens.
    """
    weight: torch.Tensor = _OPERATORS.dequantize_4bit(
        packed, absmax, blocksize, quant_type, shape, dtype
    )
    return weight


def dequantize_scales(
    codes: torch.Tensor, absmax: torch.Tensor, table: torch.Tensor
) -> torch.Tensor:
    """Return the fp32 scales, less their offset, of a matrix whose scales are quantized
    themselves."""
    scales: torch.Tensor = _OPERATORS.dequantize_blockwise(
        codes, absmax, table, _STATISTICS_BLOCK_ELEMENTS, torch.float32
    )
    return scales


def int8_product(codes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the product of two int8 matrices, in int32."""
    product: torch.Tensor = _OPERATORS.int8_linear_matmul(codes, weight)
    return product


def silence_int8_casts() -> None:
    """Keep every int8 product of every step from saying that its input is cast to fp16."""
    logging.getLogger(MatMul8bitLt.__module__).setLevel(logging.ERROR)


def make_shared_tables() -> None:
    """Make the table of codes that all layers share: a fake one must not outlive its mode."""
    tables = functional.name2qmap
    if "dynamic" not in tables:
        tables["dynamic"] = functional.create_dynamic_map()


def _matmul_on_cuda(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor | None = None,
    state: Any = None,
    threshold: float = 0.0,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multiply as bitsandbytes does on a device that is not a CPU or XPU.

    read: bitsandbytes/autograd/_functions.py, matmul.
    """
    state.threshold = threshold or state.threshold
    result: torch.Tensor = MatMul8bitLt.apply(inputs, weight, out, bias, state)
    return result


def _state_buffer(
    optimizer: Any, parameter: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Return a state; a paged one has a size here and no storage."""
    return _buffer(optimizer, parameter, parameter.shape, dtype)


def _two_states_buffer(
    optimizer: Any, parameter: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Return two states in one tensor, as ``_state_buffer`` does."""
    return _buffer(optimizer, parameter, (2, *parameter.shape), dtype)


def _buffer(
    optimizer: Any, parameter: torch.Tensor, shape: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    is_paged = optimizer.is_paged and parameter.numel() >= _LEAST_PAGED_ELEMENTS
    state: Any = torch.zeros(shape, dtype=dtype, device="meta" if is_paged else parameter.device)
    if is_paged:
        state.is_paged = True
    return state  # type: ignore[no-any-return]


FAKE_REPLACEMENTS = (Replacement(GlobalOptimManager, "_instance", None),)
"""Replacements that every trace on fake tensors needs: bitsandbytes remembers embeddings by their
address for as long as a process lives, and its memory of them begins anew."""
CUDA_REPLACEMENTS = (
    Replacement(bitsandbytes, "matmul", _matmul_on_cuda),
    Replacement(Optimizer8bit, "get_state_buffer", _state_buffer),
    Replacement(AdEMAMix, "_get_state_double_buffer", _two_states_buffer),
    Replacement(functional, "prefetch_tensor", do_nothing),
)
"""Functions that allocate on a CPU what they would on CUDA."""
