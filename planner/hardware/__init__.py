"""What a machine is, and what was read of it: cards by name, clusters, links and networks, the
answers of NVML and of the host, machines saved in files, and the notes on them. What a model or
a plan needs of a machine lives in the packages above."""
