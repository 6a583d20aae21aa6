"""Seconds: what kernels reach on a card, how long a pass, communication and a whole step take, and
what a step waits for.

Seconds of one collective over the links of a machine are in planner/hardware/network.py. Bytes that
are alive at a time are in planner/memory; neither package imports the other.
"""
