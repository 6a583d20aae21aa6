"""Tokens per second of ``launch`` beside those of a script that a user would write."""
