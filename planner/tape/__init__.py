"""PyTorch's autograd with sizes instead of values, and its operators as bytes: what each one makes,
what it saves, and what its gradient makes.

Nothing here knows a model: forward passes that are written with these operators are in
planner/forward.
"""
