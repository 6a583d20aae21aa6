"""Files and folders that are whole or not there, and the names that libraries give to them.

It knows nothing of runs, plans or training: what a run keeps on disk lives in ``run``, and what
is tokenized and kept in ``data``.
"""
