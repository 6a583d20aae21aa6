"""The engines that can run a plan: hosts by ssh, Slurm, SkyPilot, Kubeflow; one module per engine.

An engine renders a job, submits it and follows it. The job's nodes run ``launch`` themselves, so
what happens there lives in ``nodes`` and ``lifecycle``.
"""
