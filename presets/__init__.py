"""Data only: models, GPUs, recipes, tiers, rules and the demo data set."""
