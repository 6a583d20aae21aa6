"""Plans a fine-tune for the hardware at hand. Pure functions at the core; imports no torch."""
