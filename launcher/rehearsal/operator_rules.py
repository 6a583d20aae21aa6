"""Rules of a trace on fake tensors: values that do not exist, and what CUDA does differently.

==========================  =====================================================================
operator or function        what is done, and where it was read
==========================  =====================================================================
a value of a tensor         does not exist: a condition is false, a number 1
a distribution              does not look at its parameters' values:
                            torch/distributions/distribution.py, Distribution.__init__
selection by a mask         selects everything, the worst case
packed samples              are not looked for among the positions of a sample:
                            transformers/masking_utils.py, find_packed_sequence_indices
an index, backward          gradients are added to zeros in place; fake ones are copied first:
                            torch/csrc/autograd/FunctionsManual.cpp, index_backward
gradients that meet         are added in place where nobody holds the first; a mode that watches
                            operators has it done out of place: pytorch
                            torch/csrc/autograd/input_buffer.cpp, accumulate
grouped_mm                  takes fp32 too, its meta function does not: pytorch
                            aten/src/ATen/native/GroupedMMUtils.h, _grouped_mm_validate_inputs
bitsandbytes gemm_4bit      a weight is dequantized, then multiplied: bitsandbytes/backends/cuda/
                            ops.py at 0.50.2, _dequant_linear_fallback (above 1,536 tokens)
bitsandbytes int8 products  run as on CUDA, each step traced; what is made whole from int8 is a
                            workspace: bitsandbytes/backends/cuda/ops.py and default/ops.py
dropout                     keeps a mask of one byte an element: pytorch
                            aten/src/ATen/native/cuda/Dropout.cu, native_dropout
values of another width     memory efficient attention: pytorch
                            aten/src/ATen/native/transformers/cuda/sdp_utils.cpp
attention with a mask       has the heads of a token beside each other: pytorch
                            aten/src/ATen/native/transformers/cuda/attention.cu,
                            _efficient_attention_forward
what ranks send             is waited for where it is; a fake one is copied: pytorch
                            torch/csrc/distributed/c10d/Functional.cpp, wait_tensor
tensors that are cut        are never whole on a rank, but their sizes are found out by fake
                            ones that are: torch/distributed/tensor/_sharding_prop.py at 2.13.0,
                            _propagate_tensor_meta_non_cached
attention's dropout         is drawn inside the kernel: pytorch aten/src/ATen/native/transformers/
                            cuda/attention.cu; the CPU's fused kernels have none
LayerNorm, statistics       are fp32 for 16-bit inputs: pytorch
                            aten/src/ATen/native/cuda/layer_norm_kernel.cu
autocast                    on CUDA has LayerNorm, powers, softmax and softplus in fp32, on the
                            CPU not: pytorch aten/src/ATen/autocast_mode.h, AT_FORALL_FP32
softmax of masked scores    which of them are minus infinity, and a second result: pytorch
                            aten/src/ATen/native/transformers/attention.cpp, _safe_softmax
softmax, backward           ``grad * output`` is a tensor: pytorch
                            aten/src/ATen/native/cuda/SoftMax.cu, softmax_backward_cuda_out
trl's fused loss            Triton kernels work inside the tile of logits:
                            trl/kernels/chunked_logprob.py at 1.16.0; so its copies are not made
autocast in peft            peft asks whether CUDA's is on: peft/tuners/lora/bnb.py at 0.21.2
norms of gradients          norms of chunks come first: pytorch
                            aten/src/ATen/native/cuda/ForeachReduceOp.cu
offloaded activations       are in no storage while they wait: torch/autograd/graph.py at 2.13.0,
                            save_on_cpu
foreach kernels             are CUDA's default: torch/optim/optimizer.py at 2.13.0
a scalar from Python        is on the host, as AdamW's counters are: torch/optim/adam.py
StableAdamW's kernels       are Triton's, which work in place: optimi/stableadamw.py at 0.3.3
torchao's updates           are compiled: launcher/compat/optimizers.py has what they allocate
paged optimizer states      are managed memory: bitsandbytes/optim/optimizer.py at 0.50.2
cuBLAS workspaces           predicted only: aten/src/ATen/cuda/CUDABlas.cpp
==========================  =====================================================================
"""

from collections.abc import Callable
from typing import Any

import torch

from launcher.compat import bitsandbytes as bnb
from launcher.compat.torch import Operators, called_by_autograd
from launcher.rehearsal.int8_rules import (
    int8_made_whole,
    multiply_int8,
    quantize_to_int8,
)
from launcher.rehearsal.tracer import Tracer
from planner.base.units import ceil_div

Rule = Callable[[Tracer, Any, tuple[Any, ...], dict[str, Any]], Any]
"""Function that returns an operator's result, given tracer, operator, arguments and keyword
arguments."""


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
    """Add into the zeros that were allocated for the gradient."""
    return args[0]


def _grouped_mm(_tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: Any) -> Any:
    """Return the rows of every expert times its matrix, or a gradient per expert's matrix."""
    a, b, offsets = args[:3]
    experts = (offsets.shape[0],) if b.dim() == 2 else ()
    return a.new_empty((*experts, a.shape[0], b.shape[-1]))


def _workspace(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    result = func(*args, **kwargs)
    tracer.assign(result, "workspace")
    return result


def _multiply_4bit(tracer: Tracer, _func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """Dequantize the scales and the weight, and multiply; every step is traced."""
    inputs, packed, shape, absmax, blocksize, quant_type = args[:6]
    with tracer:
        if kwargs.get("absmax_8bit") is not None:
            with tracer.part("workspace"):
                without_offset = bnb.dequantize_scales(
                    kwargs["absmax_8bit"], absmax, kwargs["absmax_code"]
                )
                absmax = without_offset + kwargs["absmax_offset"]
        weight = bnb.dequantize_before_product(
            packed, shape, absmax, blocksize, quant_type, inputs.dtype
        )
        return torch.nn.functional.linear(inputs, weight, kwargs.get("bias"))


def _sum(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """Add two tensors; where two gradients meet, autograd's engine would add in place."""
    result = func(*args, **kwargs)
    if called_by_autograd():
        tracer.made_in_place(result)
    return result


def _wait(_tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: Any) -> Any:
    return args[0]


def _softmax_backward(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    result = func(*args, **kwargs)
    tracer.assign(result, "activations")
    tracer.transient(result.untyped_storage().nbytes(), "activations")
    return result


NORM_CHUNK_ELEMENTS = 65536
"""read: aten/src/ATen/native/cuda/MultiTensorApply.cuh, kChunkSize."""


def _foreach_norm(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    result = func(*args, **kwargs)
    for norm in result:
        tracer.assign(norm, "workspace")
    chunks = ceil_div(max(tensor.numel() for tensor in args[0]), NORM_CHUNK_ELEMENTS)
    tracer.transient(len(result) * chunks * torch.float32.itemsize, "workspace")
    return result


def _from_python(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    result = func(*args, **kwargs)
    if result.dim() == 0:
        tracer.made_on_host(result)
    return result


def _safe_softmax(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    result = func(*args, **kwargs)
    tracer.assign(result, "activations")
    tracer.transient(result.untyped_storage().nbytes() + result.numel(), "activations")
    return result


def _attention(_tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any) -> tuple[Any, ...]:
    output, *statistics = func(*args, **kwargs)
    if kwargs.get("attn_mask") is not None:
        samples, heads, length, width = output.shape
        output = output.new_empty((samples, length, heads, width)).transpose(1, 2)
    return output, *statistics


def _layer_norm_statistics(
    _tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any
) -> tuple[Any, ...]:
    output, *statistics = func(*args, **kwargs)
    return output, *(statistic.float() for statistic in statistics)


ENGINE_RULES: dict[Any, Rule] = {Operators.ADD: _sum}
"""Rules that a trace of computed steps needs, too."""
FAKE_RULES: dict[Any, Rule] = {
    **ENGINE_RULES,
    Operators.READ_SCALAR: _scalar,
    Operators.INDEX: _index,
    Operators.INDEX_PUT: _index_put,
    Operators.GROUPED_MM: _grouped_mm,
    Operators.MASKED_SELECT: _masked_select,
    Operators.WAIT: _wait,
    bnb.Operators.PRODUCT_4BIT: _multiply_4bit,
    Operators.CAST: int8_made_whole,
    bnb.Operators.DEQUANTIZE_4BIT: _workspace,
    bnb.Operators.DEQUANTIZE_BLOCKWISE: _workspace,
}
"""Rules of a trace on fake tensors, by operator."""
CUDA_RULES: dict[Any, Rule] = {
    **FAKE_RULES,
    Operators.ATTENTION: _attention,
    bnb.Operators.INT8_QUANTIZE: quantize_to_int8,
    bnb.Operators.INT8_PRODUCT: multiply_int8,
    Operators.SOFTMAX_BACKWARD: _softmax_backward,
    Operators.FOREACH_NORM: _foreach_norm,
    Operators.FROM_PYTHON: _from_python,
    Operators.SAFE_SOFTMAX: _safe_softmax,
    Operators.LAYER_NORM: _layer_norm_statistics,
}
"""Rules of a trace for a plan that runs on CUDA, by operator."""
