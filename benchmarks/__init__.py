"""Measurements, each of which writes a file to results/; no test asserts on them."""
