"""Real steps with random weights, one process per run, beside the planner's predictions."""
