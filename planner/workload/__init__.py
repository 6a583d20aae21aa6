"""What is trained and how it is laid out: a model with its training settings, every layout there
is, dtypes, parameters, optimizer states, quantized weights and the rules that forbid combinations.

Bytes of one weight and of one tensor's optimizer states are here (``quantization``,
``optimizers``); what is alive at a time is in planner/memory, and seconds are in planner/speed.
"""
