"""Plans on simulated cards: every phase's closed form against what PyTorch's allocator counts."""
