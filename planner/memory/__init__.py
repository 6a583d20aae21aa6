"""Bytes: what is on a device and on its host at each phase of a run, part by part.

The tensors of a pass come from planner/forward; model states, DeepSpeed's buffers, workspaces, the
driver's context and host memory are counted here. How the caching allocator places them is
planner/allocator; how long anything takes is planner/speed.
"""
