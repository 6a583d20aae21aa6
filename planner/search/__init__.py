"""Candidates: what one is, what it costs, and how the best that fits is found without pricing all.

A candidate joins a workload, a layout and a cluster with the memory and the time they need. Which
candidates a request allows, and what is said about the result, is planner/decision.
"""
