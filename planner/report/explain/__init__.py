"""The derivation of every cell of the memory report: terms with their numbers put in, and the
tensors of a micro-batch by name. ``planner/report/explain_tables.py`` draws them."""
