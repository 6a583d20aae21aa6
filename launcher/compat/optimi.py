"""Private parts of torch-optimi: when it takes kernels, and what these allocate.

read: torch-optimi 0.3.3, optimi/stableadamw.py. It is imported where it is needed: few plans have
its optimizer.
"""

from importlib import import_module
from typing import Any

from launcher.compat.replacement import Replacement, do_nothing


def leave_kernels_to_cuda(optimizer: Any) -> None:
    """Have a new optimizer update weights on the CPU without Triton's kernels, which it would take
    wherever Triton is installed.

    read: _init_group, which asks whether all of no parameters yet are on a card.
    """
    for group in optimizer.param_groups:
        if "triton" in group and not any(weight.is_cuda for weight in group["params"]):
            group["triton"] = False


def replacements(*, on_cuda: bool) -> tuple[Replacement, ...]:
    """Return the replacements of a trace on the CPU, which a plan for CUDA has without the kernels:
    they work in place."""
    module = import_module("optimi.stableadamw")
    choice = Replacement(module, "_default_to_triton", lambda _parameters: on_cuda)
    return (choice, Replacement(module, "stableadamw", do_nothing)) if on_cuda else (choice,)
