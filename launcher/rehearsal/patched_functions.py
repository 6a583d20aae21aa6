"""Functions of the libraries that a trace replaces while it runs;
launcher/rehearsal/operator_rules.py has the table of what each stands for, and where that was
read."""

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

from launcher.rehearsal.int8_rules import matmul_on_cuda

_ATEN = torch.ops.aten
_SCALED_DOT_PRODUCT = torch.nn.functional.scaled_dot_product_attention


def _dropout(
    tensor: torch.Tensor, p: float = 0.5, training: bool = True, _inplace: bool = False
) -> torch.Tensor:
    return torch.native_dropout(tensor, p, training)[0] if training and p else tensor


def _autocast_in_fp32(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose tensors autocast makes fp32."""

    @wraps(function)
    def in_fp32(*args: Any, **kwargs: Any) -> Any:
        if not _IS_AUTOCAST("cpu"):
            return function(*args, **kwargs)
        return function(*(x.float() if isinstance(x, torch.Tensor) else x for x in args), **kwargs)

    return in_fp32


def _softmax(
    x: torch.Tensor, dim: int, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Any:
    if dtype is None and _IS_AUTOCAST("cpu"):
        dtype = torch.float32
    return _SOFTMAX(x, dim, dtype=dtype)


def _autocast_enabled(device_type: str = "cpu") -> bool:
    return _IS_AUTOCAST("cpu") if device_type == "cpu" else False


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
    if _IS_AUTOCAST("cpu"):
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
    (foreach_utils, "_foreach_supported_types", _WITH_FOREACH),
    (torch_optimizer, "_foreach_supported_types", _WITH_FOREACH),
    (GlobalOptimManager, "_instance", None),
)
_UNPACKED: _Replaced = (masking_utils, "find_packed_sequence_indices", _nothing)
"""It takes every fake batch for a packed one."""
_SOFTMAX = torch.nn.functional.softmax
_IS_AUTOCAST = torch.is_autocast_enabled
_CUDA: tuple[_Replaced, ...] = (
    (torch.nn.functional, "dropout", _dropout),
    (bitsandbytes, "matmul", matmul_on_cuda),
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
def replaced_functions(*, on_cuda: bool, packing: bool = False) -> Iterator[None]:
    """What the table names and is not an operator, replaced while this is open.

    bitsandbytes remembers embeddings by their address for as long as a process lives: its
    memory of them starts anew.
    """
    with ExitStack() as stack:
        replaced = (*_FAKE, *(() if packing else (_UNPACKED,)), *(_CUDA if on_cuda else ()))
        for owner, name, replacement in replaced:
            stack.enter_context(patch.object(owner, name, replacement))
        yield
