"""``python -m planner``: the same as ``plan``."""

from planner.cli import main

main()
