"""Predicted against measured peaks of published runs, each under the conventions of its trainer."""
