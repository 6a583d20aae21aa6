"""Training settings by name or from a file. It has recipes of ours in YAML, families of recipes,
and XTuner configurations read as syntax; which settings a plan ends up with is decided in
``planner/decision``."""
