"""A run on disk and as processes: its directory, plan, attempts, checkpoints, commands and logs.

Nothing here imports the training stack, and nothing decides what comes next: how a run gets from
its plan to its result lives in ``lifecycle``, and what its ranks do in ``training``.
"""
