"""Functions of the libraries that a trace replaces while it runs.

The table in launcher/rehearsal/operator_rules.py has what each stands for, and where that was read.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from launcher.compat import bitsandbytes, optimizers, torch, transformers, trl
from launcher.compat.replacement import replaced
from planner.plan.optimizer_presets import OptimizerLibrary


@contextmanager
def replaced_functions(
    *, on_cuda: bool, packing: bool = False, optimizer_library: OptimizerLibrary | None = None
) -> Iterator[None]:
    """Replace what the table names and is not an operator.

    ``on_cuda`` says that the plan is for CUDA; the trace runs on the CPU either way.
    ``optimizer_library`` is the one that its updates come from; None for a trace without updates.
    """
    replacements = [*torch.FAKE_REPLACEMENTS, *bitsandbytes.FAKE_REPLACEMENTS]
    if not packing:
        replacements += transformers.UNPACKED_REPLACEMENTS
    if on_cuda:
        for library in (torch, transformers, bitsandbytes, trl):
            replacements += library.CUDA_REPLACEMENTS
    if optimizer_library == "optimi":
        replacements += optimizers.stable_adamw_replacements(on_cuda=on_cuda)
    if optimizer_library == "torchao":
        replacements += optimizers.compiled_replacements(on_cuda=on_cuda)
    with replaced(replacements):
        yield
