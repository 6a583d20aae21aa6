"""Parts of the libraries that have an optimizer or two: what their checkpoints hold, which kernels
they take, how PyTorch compiles their updates, and what a trace of those cannot see.

read: apollo-torch 1.0.3; torch-optimi 0.3.3, optimi/stableadamw.py; torchao 0.18.0,
torchao/optim/adam.py, and PyTorch 2.13, torch/_inductor. Each is imported where it is needed: few
plans have its optimizers.
"""

from functools import partial
from importlib import import_module
from math import prod
from typing import Any

import torch

from launcher.compat.replacement import Replacement, do_nothing

ROW = 256
"""Elements of a block."""


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


def compile_alike_in_every_step() -> None:
    """Have every update be compiled in this process, to kernels that are not chosen by timing them:
    that would take the size of the card's L2 cache and copies of weights in the first step.

    read: torch/_inductor/runtime/triton_heuristics.py, pointwise (autotune_pointwise),
    filter_reduction_configs_for_determinism and copy_args_to_cpu_if_needed;
    runtime/benchmarking.py, benchmark_gpu. The cache of whole graphs takes FSDP's shards of 8-bit
    states for those of 4-bit ones: torch/_functorch/_aot_autograd/autograd_cache.py,
    _reduce_tensor_subclass.
    """
    inductor: Any = import_module("torch._inductor.config")
    inductor.compile_threads = 1
    inductor.triton.autotune_pointwise = False
    inductor.deterministic = True
    functorch: Any = import_module("torch._functorch.config")
    functorch.enable_autograd_cache = False


def compiled_replacements(*, on_cuda: bool) -> tuple[Replacement, ...]:
    """Return the replacements of a trace, which sees nothing of what compiled code allocates."""
    update = partial(_make_buffers, on_cuda=on_cuda)
    return (
        Replacement(torch, "compile", lambda function, **_: function),
        Replacement(import_module("torchao.optim.adam"), "single_param_adam", update),
    )


def _make_buffers(
    weight: Any, _gradient: Any, _step: Any, mean: Any, *_: Any, on_cuda: bool
) -> None:
    """Allocate what compiled code does: on simulated cards, and on the CPU, seen in
    tests/simulated/test_compiled_updates.py and tests/oracle/test_compiled_updates.py."""
    weight, mean = (getattr(each, "_local_tensor", each) for each in (weight, mean))
    if not hasattr(mean, "codes"):
        return
    elements = prod(weight.shape)
    has_4_bits = mean.codes.numel() < elements
    fuses = weight.shape[-1] == ROW or elements in weight.shape[-2:]
    if on_cuda and fuses and not has_4_bits:
        return
    sizes = [(elements // ROW, torch.float32), (elements, torch.float32)]
    if has_4_bits:
        sizes.append((elements, torch.int64))
        if not on_cuda:
            sizes.append((elements, torch.uint8))
    _held = [
        torch.empty(size, dtype=dtype, device=weight.device)
        for size, dtype in sizes
        for _ in ("mean", "variance")
    ]
