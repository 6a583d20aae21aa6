"""The keys of architectures with layers that keep a state: Mamba-2 hybrids, LFM2, delta nets."""
