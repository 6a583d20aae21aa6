"""Private parts of PyTorch's dispatcher: an operator's schema and its kernels.

read: PyTorch 2.13.0. The operators are given, so this imports no more of PyTorch than its caller
has: a simulated GPU asks as soon as PyTorch is imported.
"""

from typing import Any


def schema_of(operator: Any) -> Any:
    """Return the schema of an operator's overload: its name and arguments."""
    return operator._schema


def has_own_cuda_kernel(operator: Any) -> bool:
    """Return whether an overload has a CUDA kernel that is not made of other operators."""
    import torch

    dispatcher, name = torch._C, operator._name
    return bool(
        dispatcher._dispatch_has_kernel(name)
        and dispatcher._dispatch_has_computed_kernel_for_dispatch_key(name, "CUDA")
        and not dispatcher._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
    )
