"""Values that control flow looks at: small integer and boolean tensors are computed after all.

Kernels of a simulated card do nothing, so a program that asks a mask whether it is all true, or
counts labels, would be answered zero. Device memory is host memory here: for the operators below
the host code of the CUDA kernel runs as it is, and allocates what it allocates; then the CPU's
kernel fills the results in place. Floats take part where they are few (a loss, a loss scale, a norm
for each group of parameters): a longer vector may be the gradient of a bias, which nobody has
computed, and whose leftovers would be an overflow. Results that nobody computes read zero, and not
what lay there before: ranks that find different leftovers take different ways.

Kernels are replaced, and no dispatch mode is on: a mode would change how autograd accumulates.
"""

import ctypes
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

from launcher.compat.torch_dispatch import beneath, has_own_cuda_kernel, schema_of

LARGEST_INTEGERS = 1 << 21
LARGEST_FLOATS = 16
OPERATORS = (
    *("arange", "bucketize", "eye", "gather", "index", "index_select", "masked_fill_", "nonzero"),
    *("repeat_interleave", "scatter", "searchsorted", "where"),
    *("cat", "copy_", "fill_", "flip", "random_", "roll", "stack", "tril", "triu", "zero_"),
    *("all", "any", "eq", "ge", "gt", "isfinite", "isinf", "isnan", "le", "lt", "ne"),
    *("bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor"),
    *("logical_and", "logical_not", "logical_or", "logical_xor"),
    *("abs", "add", "clamp", "clamp_max", "clamp_min", "div", "exp", "floor_divide", "log"),
    *("maximum", "minimum", "mul", "nan_to_num", "neg", "pow", "reciprocal", "remainder", "rsqrt"),
    *("rsub", "sign", "sqrt", "sub"),
    *(
        "amax",
        "amin",
        "aminmax",
        "_aminmax",
        "argmax",
        "argmin",
        "argsort",
        "bincount",
        "cumprod",
        "cumsum",
        "histc",
    ),
    *("max", "mean", "min", "prod", "sort", "std", "std_mean", "sum", "topk", "var", "var_mean"),
    *("dot", "linalg_vector_norm", "logsumexp", "mse_loss", "nll_loss_forward", "norm"),
    "_foreach_norm",
)
"""Operators that compute masks, positions, counts, routes and norms."""


class _ValuesBehindTorch(importlib.abc.MetaPathFinder):
    """Computes values once torch has been imported, whoever imports it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "torch":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        load: Any = spec.loader
        execute = load.exec_module

        def execute_then_replace(module: ModuleType) -> None:
            execute(module)
            compute_values(module)

        load.exec_module = execute_then_replace
        return spec


def compute_values_when_torch_is_imported() -> None:
    """Replace the operators' kernels in this process, as soon as there are any."""
    if "SIMULATED_GPU_MACHINE" in os.environ:
        sys.meta_path.insert(0, _ValuesBehindTorch())


def compute_values(torch: Any) -> int:
    """Replace the CUDA kernels of ``OPERATORS`` and return how many were replaced."""
    replacing = _Replacing(torch)
    for name in OPERATORS:
        packet = getattr(torch.ops.aten, name, None)
        for overload in packet.overloads() if packet is not None else ():
            replacing.replace(getattr(packet, overload), name, overload)
    _kept.append(replacing)
    return replacing.count


_kept: list["_Replacing"] = []
"""Objects that registered kernels, kept alive because the kernels are freed with them."""


class _Replacing:
    """The kernels of one process, and how device memory is seen as tensors of the CPU."""

    def __init__(self, torch: Any) -> None:
        self.count = 0
        self._torch = torch
        self._library = torch.library.Library("aten", "IMPL")
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._floats = {torch.float64, torch.float32, torch.float16, torch.bfloat16}

    def replace(self, operator: Any, name: str, overload: str) -> None:
        """Wrap one overload's CUDA kernel, where it has one of its own that can be called."""
        if not self._has_kernel(operator, name, overload):
            return
        key, kernel = beneath(operator)
        full_name = name if overload == "default" else f"{name}.{overload}"
        wrapped = self._wrapped(operator, kernel)
        self._library.impl(full_name, wrapped, key, with_keyset=True)
        self.count += 1

    def _has_kernel(self, operator: Any, name: str, overload: str) -> bool:
        """Return whether the overload can be replaced.

        A boxed call mistakes the tensor of ``number ** tensor`` for the number.
        """
        types = [str(argument.type) for argument in schema_of(operator).arguments]
        if types[:2] == ["number", "Tensor"] or (name == "pow" and "Tensor_Tensor" in overload):
            return False
        return has_own_cuda_kernel(operator)

    def _wrapped(self, operator: Any, kernel: Any) -> Any:
        schema = schema_of(operator)
        takes_tensor = [str(argument.type) == "Tensor" for argument in schema.arguments]
        writes = any(
            argument.alias_info is not None and argument.alias_info.is_write
            for argument in schema.arguments
        )
        is_copy = schema.name == "aten::copy_"
        is_selection = schema.name == "aten::nonzero"

        def with_values(keys: Any, *given: Any, **named: Any) -> Any:
            inputs = list(self._tensors((*given, *named.values())))
            positional = self._numbers_as_tensors(given, takes_tensor, inputs)
            if not any(tensor.device.type == "cuda" for tensor in inputs):
                return kernel(keys, *positional, **named)
            is_known = all(map(self._is_computed, inputs))
            if is_selection and is_known:
                count = int(self._on_cpu(positional[0]).count_nonzero())
                self._driver.simulated_next_count(ctypes.c_longlong(count))
            result = kernel(keys, *positional, **named)
            results = [t for t in self._tensors((result,)) if t.device.type == "cuda"]
            if not is_known:
                self._make_zero(results, but_floats=is_copy)
            elif results and all(map(self._is_computed, results)):
                self._fill(operator, positional, named, None if writes else results)
            return result

        return with_values

    def _tensors(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            if isinstance(value, self._torch.Tensor):
                yield value
            elif isinstance(value, list | tuple):
                yield from self._tensors(value)

    def _is_computed(self, tensor: Any) -> bool:
        limit = LARGEST_FLOATS if tensor.dtype in self._floats else LARGEST_INTEGERS
        return bool(tensor.numel() <= limit)

    def _numbers_as_tensors(
        self, given: Sequence[Any], takes_tensor: Sequence[bool], inputs: Sequence[Any]
    ) -> list[Any]:
        """Return the arguments, with numbers as tensors where the operator takes a tensor.

        The dispatcher passes a number for a tensor of one element; a boxed call refuses it.
        """
        like = inputs[0] if inputs else None
        return [
            self._as_tensor(value, like) if wants and isinstance(value, int | float) else value
            for value, wants in zip(given, takes_tensor, strict=False)
        ]

    def _as_tensor(self, number: int | float, like: Any) -> Any:
        torch = self._torch
        takes_type = like is not None and (
            like.is_floating_point() or (not isinstance(number, float) and like.dtype != torch.bool)
        )
        return torch.tensor(number, dtype=like.dtype if takes_type else None)

    def _make_zero(self, results: Iterable[Any], *, but_floats: bool) -> None:
        for result in results:
            if self._is_computed(result) and not (but_floats and result.dtype in self._floats):
                self._on_cpu(result).zero_()

    def _fill(
        self, operator: Any, given: Sequence[Any], named: dict[str, Any], results: Any
    ) -> None:
        """Compute on the CPU, in place where the operator writes its arguments.

        Values stay as they are where the CPU lacks the operator for a type.
        """
        try:
            named = {name: self._on_cpu(value) for name, value in named.items()}
            computed = operator(*map(self._on_cpu, given), **named)
        except (NotImplementedError, RuntimeError, IndexError):
            return
        if results is not None:
            for result, value in zip(results, self._tensors((computed,)), strict=False):
                if result.shape != value.shape:
                    raise RuntimeError(
                        f"simulated GPU: {operator} has the size {tuple(result.shape)} for "
                        f"{tuple(value.shape)}: it depends on a value that is not computed"
                    )
                self._on_cpu(result).copy_(value)

    def _on_cpu(self, value: Any) -> Any:
        """Return a card's tensor as a CPU tensor of the same memory, and other values unchanged."""
        torch = self._torch
        if isinstance(value, list | tuple):
            return type(value)(map(self._on_cpu, value))
        if isinstance(value, torch.device):
            return torch.device("cpu")
        if not isinstance(value, torch.Tensor) or value.device.type != "cuda":
            return value
        storage = value.untyped_storage()
        if not storage.nbytes() or not value.numel():
            return torch.empty(value.shape, dtype=value.dtype)
        memory = (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
        count = storage.nbytes() // value.element_size()
        flat = torch.frombuffer(memory, dtype=value.dtype, count=count)
        return flat.as_strided(value.shape, value.stride(), value.storage_offset())
