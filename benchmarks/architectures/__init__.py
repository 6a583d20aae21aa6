"""Every causal architecture of the installed transformers: planned, and counted."""
