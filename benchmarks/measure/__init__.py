"""Real steps with random weights, one process a run, beside what the planner says of them."""
