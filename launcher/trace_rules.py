"""What a trace on fake tensors must be told: values nobody has, and what CUDA does otherwise.

==========================  =====================================================================
operator or function        what is done, and where it was read
==========================  =====================================================================
a value of a tensor         there is none: a condition is false, a number 1
selection by a mask         everything is selected, the worst case
packed samples              are not looked for among the positions of a sample:
                            transformers/masking_utils.py, find_packed_sequence_indices
an index, backward          gradients are added to zeros in place; fake ones are copied first:
                            torch/csrc/autograd/FunctionsManual.cpp, index_backward
grouped_mm                  takes fp32 too, its meta function does not: pytorch
                            aten/src/ATen/native/GroupedMMUtils.h, _grouped_mm_validate_inputs
bitsandbytes gemm_4bit      a weight is dequantized, then multiplied: bitsandbytes/backends/cuda/
                            ops.py at 0.50.2, _dequant_linear_fallback (above 1,536 tokens)
dropout                     keeps a mask of one byte an element: pytorch
                            aten/src/ATen/native/cuda/Dropout.cu, native_dropout
values of another width     memory efficient attention: pytorch
                            aten/src/ATen/native/transformers/cuda/sdp_utils.cpp
attention's dropout         is drawn inside the kernel: pytorch aten/src/ATen/native/transformers/
                            cuda/attention.cu; the CPU's fused kernels have none
LayerNorm, statistics       are fp32 for 16-bit inputs: pytorch
                            aten/src/ATen/native/cuda/layer_norm_kernel.cu
autocast                    has LayerNorm, powers and softmax in fp32, the CPU's has not:
                            pytorch aten/src/ATen/autocast_mode.h, AT_FORALL_FP32
softmax of masked scores    which of them are minus infinity, and a second result: pytorch
                            aten/src/ATen/native/transformers/attention.cpp, _safe_softmax
softmax, backward           ``grad * output`` is a tensor: pytorch
                            aten/src/ATen/native/cuda/SoftMax.cu, softmax_backward_cuda_out
trl's fused loss            Triton kernels work inside the tile of logits:
                            trl/kernels/chunked_logprob.py at 1.16.0; so its copies are not made
autocast in peft            peft asks whether CUDA's is on: peft/tuners/lora/bnb.py at 0.21.2
norms of gradients          norms of chunks come first: pytorch
                            aten/src/ATen/native/cuda/ForeachReduceOp.cu
foreach kernels             are CUDA's default: torch/optim/optimizer.py at 2.13.0
a scalar from Python        is on the host, as AdamW's counters are: torch/optim/adam.py
paged optimizer states      are managed memory: bitsandbytes/optim/optimizer.py at 0.50.2
cuBLAS workspaces           predicted only: aten/src/ATen/cuda/CUDABlas.cpp
==========================  =====================================================================
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import bitsandbytes
import torch
import torch.optim.optimizer as torch_optimizer
from bitsandbytes.optim.optimizer import GlobalOptimManager, Optimizer8bit
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _foreach_utils as foreach_utils
from transformers import masking_utils
from trl.kernels import chunked_logprob
from trl.trainer import utils as trl_utils

from launcher.trace import Tracer
from planner.units import ceil_div

Rule = Callable[[Tracer, Any, tuple[Any, ...], dict[str, Any]], Any]
_ATEN = torch.ops.aten
_SCALED_DOT_PRODUCT = torch.nn.functional.scaled_dot_product_attention
_BITSANDBYTES = torch.ops.bitsandbytes


def _scalar(_tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: Any) -> Any:
    dtype = args[0].dtype
    if dtype == torch.bool:
        return False
    return 1.0 if dtype.is_floating_point else 1


def _index(_tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    tensor, [mask, *more] = args
    if more or mask is None or mask.dtype != torch.bool:
        return func(*args, **kwargs)
    return tensor.new_empty((mask.numel(), *tensor.shape[mask.dim() :]))


def _masked_select(_tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: Any) -> Any:
    tensor, mask = args
    return tensor.new_empty(mask.numel())


def _index_put(_tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: Any) -> Any:
    """Into the zeros that were made for it."""
    return args[0]


def _grouped_mm(_tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: Any) -> Any:
    """Rows of every expert with its matrix, or what each expert's matrix has for a gradient."""
    a, b, offsets = args[:3]
    experts = (offsets.shape[0],) if b.dim() == 2 else ()
    return a.new_empty((*experts, a.shape[0], b.shape[-1]))


def _workspace(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    result = func(*args, **kwargs)
    tracer.own(result, "workspace")
    return result


def _multiply_4bit(tracer: Tracer, _func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """The steps of the fallback, each traced."""
    inputs, packed, shape, absmax, blocksize, quant_type = args[:6]
    with tracer:
        if kwargs.get("absmax_8bit") is not None:
            with tracer.part("workspace"):
                absmax = _BITSANDBYTES.dequantize_blockwise(
                    kwargs["absmax_8bit"], absmax, kwargs["absmax_code"], 256, torch.float32
                )
                absmax += kwargs["absmax_offset"]
        weight = _BITSANDBYTES.dequantize_4bit(
            packed, absmax, blocksize, quant_type, shape, inputs.dtype
        )
        return torch.nn.functional.linear(inputs, weight, kwargs.get("bias"))


def _softmax_backward(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    result = func(*args, **kwargs)
    tracer.own(result, "activations")
    tracer.transient(result.untyped_storage().nbytes(), "activations")
    return result


NORM_CHUNK_ELEMENTS = 65536
"""read: aten/src/ATen/native/cuda/MultiTensorApply.cuh, kChunkSize."""


def _foreach_norm(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    result = func(*args, **kwargs)
    for norm in result:
        tracer.own(norm, "workspace")
    chunks = ceil_div(max(tensor.numel() for tensor in args[0]), NORM_CHUNK_ELEMENTS)
    tracer.transient(len(result) * chunks * torch.float32.itemsize, "workspace")
    return result


def _from_python(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    result = func(*args, **kwargs)
    if result.dim() == 0:
        tracer.elsewhere(result)
    return result


def _safe_softmax(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    result = func(*args, **kwargs)
    tracer.own(result, "activations")
    tracer.transient(result.untyped_storage().nbytes() + result.numel(), "activations")
    return result


def _layer_norm_statistics(
    _tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any
) -> tuple[Any, ...]:
    output, *statistics = func(*args, **kwargs)
    return output, *(each.float() for each in statistics)


FAKE_RULES: dict[Any, Rule] = {
    _ATEN._local_scalar_dense.default: _scalar,
    _ATEN.index.Tensor: _index,
    _ATEN.index_put.default: _index_put,
    _ATEN._grouped_mm.default: _grouped_mm,
    _ATEN.masked_select.default: _masked_select,
    _BITSANDBYTES.gemm_4bit.default: _multiply_4bit,
    _BITSANDBYTES.dequantize_4bit.default: _workspace,
    _BITSANDBYTES.dequantize_blockwise.default: _workspace,
}
CUDA_RULES: dict[Any, Rule] = {
    **FAKE_RULES,
    _ATEN._softmax_backward_data.default: _softmax_backward,
    _ATEN._foreach_norm.Scalar: _foreach_norm,
    _ATEN.lift_fresh.default: _from_python,
    _ATEN._safe_softmax.default: _safe_softmax,
    _ATEN.native_layer_norm.default: _layer_norm_statistics,
}


def _dropout(
    tensor: torch.Tensor, p: float = 0.5, training: bool = True, _inplace: bool = False
) -> torch.Tensor:
    return torch.native_dropout(tensor, p, training)[0] if training and p else tensor


def _autocast_in_fp32(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose tensors autocast makes fp32."""

    @wraps(function)
    def in_fp32(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_autocast_cpu_enabled():
            return function(*args, **kwargs)
        return function(*(x.float() if isinstance(x, torch.Tensor) else x for x in args), **kwargs)

    return in_fp32


def _softmax(
    x: torch.Tensor, dim: int, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Any:
    if dtype is None and torch.is_autocast_cpu_enabled():
        dtype = torch.float32
    return _SOFTMAX(x, dim, dtype=dtype)


def _autocast_enabled(device_type: str = "cpu") -> bool:
    return torch.is_autocast_cpu_enabled() if device_type == "cpu" else False


def _state_buffer(
    optimizer: Any, parameter: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Paged states have sizes here and no storage."""
    if not optimizer.is_paged or parameter.numel() < 1e5:
        return torch.zeros_like(parameter, dtype=dtype)
    paged: Any = torch.zeros_like(parameter, dtype=dtype, device="meta")
    paged.is_paged = True
    return paged  # type: ignore[no-any-return]


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    """Dropout is drawn inside CUDA's kernels; where values have another width one of them takes
    them, and the CPU would make the scores whole."""
    if query.shape[-1] == value.shape[-1]:
        return _SCALED_DOT_PRODUCT(query, key, value, *args, **{**kwargs, "dropout_p": 0.0})
    bias = kwargs.get("attn_mask")
    if bias is not None and bias.dtype == torch.bool:
        bias = torch.zeros_like(bias, dtype=query.dtype)
    if torch.is_autocast_cpu_enabled():
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = (x.to(dtype) for x in (query, key, value))
    output, *_ = _ATEN._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, 0.0, bias is None
    )
    return output


def _nothing(*_: Any, **__: Any) -> None:
    """In the place of a function that works on memory which is already there."""


_Replaced = tuple[Any, str, Any]
_WITH_FOREACH = [torch.Tensor, torch.nn.Parameter, FakeTensor]
_FAKE: tuple[_Replaced, ...] = (
    (masking_utils, "find_packed_sequence_indices", _nothing),
    (foreach_utils, "_foreach_supported_types", _WITH_FOREACH),
    (torch_optimizer, "_foreach_supported_types", _WITH_FOREACH),
    (GlobalOptimManager, "_instance", None),
)
_SOFTMAX = torch.nn.functional.softmax
_CUDA: tuple[_Replaced, ...] = (
    (torch.nn.functional, "dropout", _dropout),
    (torch.nn.functional, "layer_norm", _autocast_in_fp32(torch.nn.functional.layer_norm)),
    (torch.nn.functional, "scaled_dot_product_attention", _attention),
    (torch.nn.functional, "softmax", _softmax),
    (torch, "pow", _autocast_in_fp32(torch.pow)),
    (torch, "is_autocast_enabled", _autocast_enabled),
    (torch_optimizer, "_get_foreach_kernels_supported_devices", lambda: ["cpu", "cuda"]),
    (Optimizer8bit, "get_state_buffer", _state_buffer),
    (bitsandbytes.functional, "prefetch_tensor", _nothing),
    (trl_utils, "_use_triton", lambda _device: True),
    (chunked_logprob, "_forward_tile", _nothing),
    (chunked_logprob, "_backward_tile", _nothing),
    (chunked_logprob, "_addmm_fp32", _nothing),
)


@contextmanager
def replaced_functions(*, on_cuda: bool) -> Iterator[None]:
    """What the table names and is not an operator, replaced while this is open.

    bitsandbytes remembers embeddings by their address for as long as a process lives: its
    memory of them starts anew.
    """
    with ExitStack() as stack:
        for owner, name, replacement in (*_FAKE, *(_CUDA if on_cuda else ())):
            stack.enter_context(patch.object(owner, name, replacement))
        yield
