"""Other people's names for a shape: one module for each line of architectures."""
