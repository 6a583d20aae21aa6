"""What is trained and how it is laid out: a model with its training settings, every layout there
is, dtypes, parameters, optimizer states, quantized weights and the rules that forbid combinations.

Nothing here says what a workload costs: bytes are in planner/memory, seconds in planner/speed.
"""
