"""Preparing training data: records a second, and the memory it takes."""
