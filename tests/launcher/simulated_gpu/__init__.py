"""Simulated GPUs, as far as they can be looked at without the CUDA build of PyTorch."""
