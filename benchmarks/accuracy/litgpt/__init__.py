"""LitGPT's model and training loop on the planner's tape, for the tables that it publishes."""

from benchmarks.accuracy.litgpt.conventions import sources
from benchmarks.accuracy.litgpt.predict import requested_bytes, set_aside, timeline

__all__ = ["requested_bytes", "set_aside", "sources", "timeline"]
