"""What a person sees of a run: the live view, its curve and gauges, and the summary at the end.

It imports no training stack and decides nothing. The trainer's callbacks that feed it live in
``training``, and the words for what went wrong in ``faults``.
"""
