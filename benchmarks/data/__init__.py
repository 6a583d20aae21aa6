"""Records per second and memory of preparing training data."""
