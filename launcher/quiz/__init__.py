"""The command ``quiz``: what a model answers before and after its training, and its loss curve.

Questions, answers and their marks live here. Loading a trained model does not (chat/).
"""
