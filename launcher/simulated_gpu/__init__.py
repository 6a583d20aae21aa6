"""Simulated GPUs: the real CUDA build of PyTorch on cards that do not exist.

C sources in ``csrc`` stand in for the CUDA driver and runtime, cuBLAS, cuDNN, NCCL and NVML. Memory
is counted against a card's capacity, kernels do nothing, and small integers are computed. What
lives here: the stand-ins, how they are compiled, the machine they simulate, and the environment of
a process that sees it. What does not: what is run on it (``rehearsal``).
"""
