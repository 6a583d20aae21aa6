"""PyTorch's CUDA caching allocator, replayed: how many bytes a run of allocations reserves, in
blocks and segments.

The allocations of a training step come from planner/forward and planner/memory.
"""
