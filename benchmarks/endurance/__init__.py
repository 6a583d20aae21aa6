"""A run of thousands of steps: whether memory grows, and steps become slower."""
