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
bitsandbytes gemm_4bit      a weight is dequantized, then multiplied: bitsandbytes/backends/cuda/
                            ops.py at 0.50.2, _dequant_linear_fallback (above 1,536 tokens)
dropout                     keeps a mask of one byte an element: pytorch
                            aten/src/ATen/native/cuda/Dropout.cu, native_dropout
softmax, backward           ``grad * output`` is a tensor: pytorch
                            aten/src/ATen/native/cuda/SoftMax.cu, softmax_backward_cuda_out
trl's fused loss            Triton kernels work inside the tile of logits:
                            trl/kernels/chunked_logprob.py at 1.16.0; so its copies are not made
autocast in peft            peft asks whether CUDA's is on: peft/tuners/lora/bnb.py at 0.21.2
cuBLAS workspaces           predicted only: aten/src/ATen/cuda/CUDABlas.cpp
==========================  =====================================================================
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import bitsandbytes  # noqa: F401  registers its operators
import torch
from transformers import masking_utils
from trl.kernels import chunked_logprob
from trl.trainer import utils as trl_utils

from launcher.trace import Tracer

Rule = Callable[[Tracer, Any, tuple[Any, ...], dict[str, Any]], Any]
_ATEN = torch.ops.aten
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
    tracer.transient(result.untyped_storage().nbytes(), "activations")
    return result


FAKE_RULES: dict[Any, Rule] = {
    _ATEN._local_scalar_dense.default: _scalar,
    _ATEN.index.Tensor: _index,
    _ATEN.index_put.default: _index_put,
    _ATEN.masked_select.default: _masked_select,
    _BITSANDBYTES.gemm_4bit.default: _multiply_4bit,
    _BITSANDBYTES.dequantize_4bit.default: _workspace,
    _BITSANDBYTES.dequantize_blockwise.default: _workspace,
}
CUDA_RULES: dict[Any, Rule] = {
    **FAKE_RULES,
    _ATEN._softmax_backward_data.default: _softmax_backward,
}


def _dropout(
    tensor: torch.Tensor, p: float = 0.5, training: bool = True, _inplace: bool = False
) -> torch.Tensor:
    return torch.native_dropout(tensor, p, training)[0] if training and p else tensor


def _autocast_enabled(device_type: str = "cpu") -> bool:
    return torch.is_autocast_cpu_enabled() if device_type == "cpu" else False


def _nothing(*_: Any, **__: Any) -> None:
    """In the place of a function that works on memory which is already there."""


_Replaced = tuple[Any, str, Callable[..., Any]]
_FAKE: tuple[_Replaced, ...] = ((masking_utils, "find_packed_sequence_indices", _nothing),)
_CUDA: tuple[_Replaced, ...] = (
    (torch.nn.functional, "dropout", _dropout),
    (torch, "is_autocast_enabled", _autocast_enabled),
    (trl_utils, "_use_triton", lambda _device: True),
    (chunked_logprob, "_forward_tile", _nothing),
    (chunked_logprob, "_backward_tile", _nothing),
    (chunked_logprob, "_addmm_fp32", _nothing),
)


@contextmanager
def replaced_functions(*, on_cuda: bool) -> Iterator[None]:
    """What the table names and is not an operator, replaced while this is open."""
    with ExitStack() as stack:
        for owner, name, replacement in (*_FAKE, *(_CUDA if on_cuda else ())):
            stack.enter_context(patch.object(owner, name, replacement))
        yield
