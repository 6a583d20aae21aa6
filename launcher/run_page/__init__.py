"""Runs as a page: ``launch --html RUN``. It reads what a run has written, finished or not, and says
on the page what is missing or damaged. How pages look lives in ``planner/page``.
"""
