"""A run on disk and as processes: its directory, plan, attempts, checkpoints, commands and logs.

Signals are handled here too: ``process`` passes Ctrl-C and SIGTERM on to the ranks, and
``unwinding`` lets a process remove what it has half made. Nothing imports the training stack, and
nothing decides what comes next: how a run gets from its plan to its result lives in ``lifecycle``,
and what its ranks do in ``training``.
"""
