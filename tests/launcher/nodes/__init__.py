"""Runs on several nodes: network namespaces of this machine, each with a `launch` of its own."""
