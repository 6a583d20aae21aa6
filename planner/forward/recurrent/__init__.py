"""Layers that keep a state of the tokens before: delta nets, Mamba and Mamba-2 mixers, and short
convolutions."""
