"""What this machine reaches: rates of kernels, links, host and disk, for ``plan --measure``.

It is asked by the planner in a process of its own, and answers with the fields of
planner/hardware/measured/measurement.py. What the rates are used for is not known here.
"""
