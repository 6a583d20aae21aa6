"""Private parts of PyTorch's dispatcher: an operator's schema and its kernels.

read: PyTorch 2.13.0; 2.6.0 for what is said of it. The operators are given, so this imports no
more of PyTorch than its caller has: a simulated GPU asks as soon as PyTorch is imported.
"""

from collections.abc import Callable
from typing import Any


def schema_of(operator: Any) -> Any:
    """Return the schema of an operator's overload: its name and arguments."""
    return operator._schema


def has_own_cuda_kernel(operator: Any) -> bool:
    """Return whether an overload has a CUDA kernel that is not made of other operators.

    What is given a device instead of a tensor chooses its kernel at BackendSelect, and is made of
    the overload that writes into a tensor.
    """
    import torch

    dispatcher, name = torch._C, operator._name
    return bool(
        dispatcher._dispatch_has_kernel(name)
        and dispatcher._dispatch_has_computed_kernel_for_dispatch_key(name, "CUDA")
        and not dispatcher._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
        and not dispatcher._dispatch_has_kernel_for_dispatch_key(name, "BackendSelect")
    )


def beneath(operator: Any) -> tuple[str, Callable[..., Any]]:
    """Return the dispatch key at which an overload's CUDA kernel can be wrapped, and what calls the
    kernel: with the dispatch keys, then the arguments.

    A kernel can be asked for since 2.9. Before, one wraps it from a key above the device's, which
    every call passes; calls for the CPU pass it too.
    """
    import torch

    if hasattr(torch.library, "get_kernel"):
        return "CUDA", torch.library.get_kernel(operator, "CUDA").call_boxed
    above = torch._C.DispatchKey.BackendSelect

    def call(keys: Any, *given: Any, **named: Any) -> Any:
        return operator.redispatch(keys.remove(above), *given, **named)

    return "BackendSelect", call
