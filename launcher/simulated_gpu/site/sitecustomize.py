"""Python imports this at its start, where ``environment.py`` put its folder on PYTHONPATH."""

from launcher.simulated_gpu.values import compute_values_when_torch_is_imported

compute_values_when_torch_is_imported()
