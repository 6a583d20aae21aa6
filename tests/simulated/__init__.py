"""The CUDA build of PyTorch on simulated cards; ``make simulated`` has the environment for it."""
