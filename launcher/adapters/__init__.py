"""Adapters that begin as something else than peft's: as a part of the base's weights.

Attaching adapters to a model is in launcher/training, and merging them in launcher/merging.
"""
