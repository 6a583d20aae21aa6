"""Machines: cards and clusters, links and networks, what NVML and the host report, saved machines,
and the notes on them. What a model or a plan needs of a machine is counted in the packages
above."""
