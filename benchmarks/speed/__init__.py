"""Predicted against published and measured throughput."""
