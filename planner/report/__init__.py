"""The report for people: in a terminal, as a page and as JSON, with the formulas behind it. It
takes finished decisions and computes nothing but their layout; with ``planner/cli`` it is the
only package of the planner that draws. How a decision is made lives in ``planner/decision``.

``terminal_report`` puts the parts in order; lines about speed are in ``speed_rows``, about the data
in ``data_rows``, about the machine in ``machine_report``.
"""
