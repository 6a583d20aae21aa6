"""Layers that keep a state of the tokens before: delta nets, Mamba-2 mixers, short convolutions."""
