"""The command ``plan``: its options, and the files and output that they ask for.

The decision does not live here (decision/), nor do the report's words and tables (report/), nor
the grammar of options, which both commands share (base/command_line.py).
"""
