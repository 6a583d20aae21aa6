"""Functions of the libraries that a trace replaces while it runs.

The table in launcher/rehearsal/operator_rules.py has what each stands for, and where that was read.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from launcher.compat import bitsandbytes, torch, transformers, trl
from launcher.compat.replacement import replaced


@contextmanager
def replaced_functions(*, on_cuda: bool, packing: bool = False) -> Iterator[None]:
    """Replace what the table names and is not an operator.

    ``on_cuda`` says that the plan is for CUDA; the trace runs on the CPU either way.
    """
    replacements = [*torch.FAKE_REPLACEMENTS, *bitsandbytes.FAKE_REPLACEMENTS]
    if not packing:
        replacements += transformers.UNPACKED_REPLACEMENTS
    if on_cuda:
        for library in (torch, transformers, bitsandbytes, trl):
            replacements += library.CUDA_REPLACEMENTS
    with replaced(replacements):
        yield
