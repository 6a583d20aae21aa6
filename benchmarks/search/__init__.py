"""What a plan costs to make: cold start, candidates a second, and growth with the cluster."""
