"""What the planner asks the launcher: token lengths of data, traces of models without formulas.

The answers come from processes of their own that import the training stack, so the planner never
imports it. How the answers are used lives in ``datasets``, ``models`` and ``search``.
"""
