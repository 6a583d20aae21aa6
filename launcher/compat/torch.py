"""Private parts of PyTorch, and functions of it that a trace on fake tensors replaces.

read: PyTorch 2.13.0. Where CUDA does something else than the CPU, the file that says so is named
in the table of launcher/rehearsal/operator_rules.py.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.optim.optimizer as torch_optimizer
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils import _foreach_utils as foreach_utils
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    is_traceable_wrapper_subclass_type,
)
from torch.utils._pytree import tree_map_only

from launcher.compat.fake_results import RememberingFakes
from launcher.compat.replacement import Replacement

_ATEN = torch.ops.aten
_DEVICE = torch.ops.prim.device.default
_SCALED_DOT_PRODUCT = torch.nn.functional.scaled_dot_product_attention
_SOFTMAX = torch.nn.functional.softmax
_IS_AUTOCAST = torch.is_autocast_enabled
_SIZES_OF_PARTS = ShardingPropagator._propagate_tensor_meta_non_cached


class Operators:
    """Operators of ATen that launcher/rehearsal/operator_rules.py has rules for."""

    ADD = _ATEN.add.Tensor
    ATTENTION = _ATEN._scaled_dot_product_flash_attention_for_cpu.default
    CAST = _ATEN._to_copy.default
    FOREACH_NORM = _ATEN._foreach_norm.Scalar
    FROM_PYTHON = _ATEN.lift_fresh.default
    GROUPED_MM = _ATEN._grouped_mm.default
    INDEX = _ATEN.index.Tensor
    INDEX_PUT = _ATEN.index_put.default
    LAYER_NORM = _ATEN.native_layer_norm.default
    MASKED_SELECT = _ATEN.masked_select.default
    READ_SCALAR = _ATEN._local_scalar_dense.default
    SAFE_SOFTMAX = _ATEN._safe_softmax.default
    WAIT = torch.ops._c10d_functional.wait_tensor.default
    SOFTMAX_BACKWARD = _ATEN._softmax_backward_data.default


class OperatorWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that handles every operator called while it is entered.

    Entered once more inside ``on_operator``, it handles the operators called there, too.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: nothing is compiled, and keeping dynamo away takes two calls each time."""
        return False

    def on_operator(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what the operator returns."""
        return operator(*args, **kwargs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE and isinstance(args[0], FakeTensor):
            return args[0].device  # two of three calls, which allocate nothing
        if any(map(is_traceable_wrapper_subclass_type, types)):
            return NotImplemented  # it calls operators on the tensors inside
        return self.on_operator(func, args, kwargs or {})


def called_by_autograd() -> bool:
    """Return whether autograd's engine called the operator that a watch handles now.

    False if Python code called it, such as a backward function written in Python.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "__torch_dispatch__":
        frame = frame.f_back
    frame = None if frame is None else frame.f_back
    return frame is not None and frame.f_code.co_name == "_engine_run_backward"


def fake_tensors() -> Any:
    """Return a mode under which tensors have shapes and no values; real ones may be mixed in."""
    return RememberingFakes(allow_non_fake_inputs=True)


def for_tensors(function: Callable[[torch.Tensor], None], result: Any) -> None:
    """Call ``function`` with every tensor in an operator's result."""
    if isinstance(result, torch.Tensor):
        function(result)
    else:
        tree_map_only(torch.Tensor, function, result)


def storage_id(storage: Any) -> int:
    """Return what identifies a storage as long as it lives, fake ones included."""
    return int(storage._cdata)


def own_tensors(module: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a module's own parameters and buffers by name, to be replaced in place."""
    return module._parameters, module._buffers


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this rank has of a tensor that is cut over ranks; any other as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    with torch.no_grad():
        part: torch.Tensor = tensor.to_local()
    return part


def cut_like(whole: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Return a rank's part as one of a tensor that is cut as ``whole`` is, if it is."""
    if not isinstance(whole, DTensor):
        return part
    return DTensor.from_local(part, whole.device_mesh, whole.placements, run_check=False)


def join_fake_ranks(ranks: int) -> None:
    """Form a group of so many ranks, of which this process is the first and no other exists."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)


def file_offset(tensor: torch.Tensor) -> int | None:
    """Return where in its file, in bytes, the storage of a tensor loaded onto ``meta`` begins.

    None if the file is of the old format, whose storages have no place of their own.
    read: torch/serialization.py, load_tensor.
    """
    return tensor.untyped_storage()._checkpoint_offset


def _dropout(
    tensor: torch.Tensor, p: float = 0.5, training: bool = True, _inplace: bool = False
) -> torch.Tensor:
    return torch.native_dropout(tensor, p, training)[0] if training and p else tensor


def _autocast_in_fp32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with its tensors cast to fp32 under autocast."""

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


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    """Attend as CUDA's kernels do: they draw the dropout inside, and one of them takes values of
    another width, for which the CPU would allocate the scores."""
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


def _sizes_of_parts(propagator: ShardingPropagator, operator: Any) -> Any:
    """Find out the size of a result of tensors that are cut, which no rank ever has whole."""
    with _disable_current_modes():
        return _SIZES_OF_PARTS(propagator, operator)


_WITH_FOREACH = [torch.Tensor, torch.nn.Parameter, FakeTensor]
FAKE_REPLACEMENTS = (
    Replacement(foreach_utils, "_foreach_supported_types", _WITH_FOREACH),
    Replacement(torch_optimizer, "_foreach_supported_types", _WITH_FOREACH),
    Replacement(torch.distributions.Distribution, "_validate_args", False),
    Replacement(ShardingPropagator, "_propagate_tensor_meta_non_cached", _sizes_of_parts),
)
"""Replacements that every trace on fake tensors needs: their types take foreach kernels, too,
distributions do not look at values, and tensors that are cut are made in parts alone."""
CUDA_REPLACEMENTS = (
    Replacement(torch.nn.functional, "dropout", _dropout),
    Replacement(
        torch.nn.functional, "layer_norm", _autocast_in_fp32(torch.nn.functional.layer_norm)
    ),
    Replacement(torch.nn.functional, "scaled_dot_product_attention", _attention),
    Replacement(torch.nn.functional, "softmax", _softmax),
    Replacement(torch.nn.functional, "softplus", _autocast_in_fp32(torch.nn.functional.softplus)),
    Replacement(torch, "pow", _autocast_in_fp32(torch.pow)),
    Replacement(torch.Tensor, "pow", _autocast_in_fp32(torch.Tensor.pow)),
    Replacement(torch.Tensor, "__pow__", _autocast_in_fp32(torch.Tensor.__pow__)),
    Replacement(torch, "square", _autocast_in_fp32(torch.square)),
    Replacement(torch, "is_autocast_enabled", _autocast_enabled),
    Replacement(torch_optimizer, "_get_foreach_kernels_supported_devices", lambda: ["cpu", "cuda"]),
)
"""Functions that allocate on a CPU what they would on CUDA."""
