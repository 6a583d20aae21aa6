"""transformers' forward passes on the tape: every layer kind, the embeddings, the head and the
losses, variable by variable, since a variable that a module still holds is memory.

The operators are in planner/tape; how layers of a pass are laid end to end for a whole model is in
planner/memory and planner/speed.
"""
