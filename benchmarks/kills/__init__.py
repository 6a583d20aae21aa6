"""Runs that are killed at random moments, resumed, and compared with undisturbed ones."""
