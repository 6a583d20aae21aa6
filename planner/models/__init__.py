"""The shape of a model, and the ``config.json`` it comes from. It has layers, matrices, experts,
latent attention, counts of parameters, presets, and models that are traced instead of computed;
what is trained and how lives in ``planner/workload``."""
