"""Rules for bitsandbytes' int8 products in a trace: every step that CUDA makes is traced.

No column of inputs holds an outlier. read: bitsandbytes/backends/cuda/ops.py and
backends/default/ops.py at 0.50.2.
"""

from typing import Any

import torch

from launcher.compat.bitsandbytes import int8_product
from launcher.rehearsal.tracer import Tracer


def quantize_to_int8(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """Quantize the inputs of a product, row by row, and look for outliers."""
    threshold = kwargs.get("threshold", args[1] if len(args) > 1 else 0.0)
    if threshold == 0.0:
        return func(*args, **kwargs)
    tensor = args[0]
    with tracer:
        scales = tensor.new_empty(tensor.numel() // tensor.shape[-1], dtype=torch.float32)
        codes = torch.empty_like(tensor, dtype=torch.int8)
        outliers = tensor.abs() >= threshold
        del outliers
        return codes, scales, tensor.new_empty(0, dtype=torch.int64)


def multiply_int8(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: Any) -> Any:
    """Multiply int8 codes and weights, and scale the product."""
    inputs, codes, weight = args[:3]
    with tracer:
        product = int8_product(codes, weight)
        return torch.empty_like(product, dtype=torch.float16).to(inputs.dtype), inputs.new_empty(0)


def int8_made_whole(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """Cast a tensor; a cast of int8 weights begins their dequantization, a workspace."""
    result = func(*args, **kwargs)
    if args[0].dtype == torch.int8:
        tracer.assign(result, "workspace")
    return result
