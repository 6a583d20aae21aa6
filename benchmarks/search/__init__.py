"""Cost of making a plan: cold start, candidates per second, and growth with the cluster."""
