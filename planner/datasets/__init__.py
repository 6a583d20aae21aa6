"""Data sets by name, and what the token lengths of their records make of a sequence length. The
records themselves are read in ``launcher/data``."""
