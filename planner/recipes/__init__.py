"""Training settings by name or from a file: recipes of ours in YAML, families of recipes, and
XTuner configurations read as syntax. Which settings a plan ends up with is decided in
``planner/decision``."""
