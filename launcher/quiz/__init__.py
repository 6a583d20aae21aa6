"""The command ``quiz``: what a model answers before and after its training, and its loss curve.

Questions, answers and their marks live here. Building models for training does not (training/).
"""
