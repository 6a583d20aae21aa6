"""Parts of the libraries that have an optimizer: what its checkpoints hold, which kernels it takes.

read: apollo-torch 1.0.3; torch-optimi 0.3.3, optimi/stableadamw.py. Each is imported where it is
needed: few plans have its optimizer.
"""

from importlib import import_module
from typing import Any

import torch

from launcher.compat.replacement import Replacement, do_nothing


def load_projections() -> None:
    """Have ``torch.load`` build the projections among the optimizer's states.

    read: apollo_torch/random_projector.py; they are an object for each matrix, of numbers and a
    tensor.
    """
    from apollo_torch.random_projector import GradientProjector

    torch.serialization.add_safe_globals([GradientProjector])


def leave_kernels_to_cuda(optimizer: Any) -> None:
    """Have a new optimizer update weights on the CPU without Triton's kernels, which it would take
    wherever Triton is installed.

    read: _init_group, which asks whether all of no parameters yet are on a card.
    """
    for group in optimizer.param_groups:
        if "triton" in group and not any(weight.is_cuda for weight in group["params"]):
            group["triton"] = False


def stable_adamw_replacements(*, on_cuda: bool) -> tuple[Replacement, ...]:
    """Return the replacements of a trace on the CPU, which a plan for CUDA has without the kernels:
    they work in place."""
    module = import_module("optimi.stableadamw")
    choice = Replacement(module, "_default_to_triton", lambda _parameters: on_cuda)
    return (choice, Replacement(module, "stableadamw", do_nothing)) if on_cuda else (choice,)
