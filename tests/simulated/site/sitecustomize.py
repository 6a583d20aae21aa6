"""Ranks of a run on simulated cards, with the faults that TEST_FAULTS names."""

import os
import sys

from launcher.simulated_gpu.values import compute_values_when_torch_is_imported

compute_values_when_torch_is_imported()
if "launcher.training.rank" in sys.orig_argv and "RANK" in os.environ:
    from tests.launcher.injected_faults import install

    install(os.environ.get("TEST_FAULTS", ""))
