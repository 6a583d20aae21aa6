"""A step of a plan without data and without weights: ``launch plan.yaml --rehearse``.

Traced on fake tensors, or measured on one GPU, and set beside the prediction; and the service that
traces models for the planner. The names of other libraries that a trace replaces are in
launcher/compat.
"""
