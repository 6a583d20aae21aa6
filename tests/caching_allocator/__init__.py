"""PyTorch's own caching allocator over a driver that only counts, and its answers."""
