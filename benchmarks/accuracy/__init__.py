"""Predicted against measured peaks: published runs, each under its own trainer's conventions."""
