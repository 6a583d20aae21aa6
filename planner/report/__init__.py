"""Words and tables for people: the report in a terminal and as a page, the formulas behind it, and
the ``--json`` document. It takes finished decisions and computes nothing but their layout; with
``planner/cli`` it is the only package of the planner that draws. How a decision is made lives in
``planner/decision``."""
