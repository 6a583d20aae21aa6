"""The way of a run from its plan to its result: check, prepare, train, resume, fall back, record.

What a run is on disk lives in ``run``, what its ranks do in ``training``, and how several nodes
agree in ``nodes``, which take this package's steps together.
"""
