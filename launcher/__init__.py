"""Runs the training that a plan describes."""
