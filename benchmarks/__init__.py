"""Measurements: not tests, and never asserted on. Each writes a file to results/."""
