"""A run on several nodes: how one finds the others, agrees with them and notices their failure.

Every node runs the same command. What a node does by itself, from preparation to training, lives
in ``lifecycle``; how an engine starts the command on its nodes lives in ``engines``.
"""
