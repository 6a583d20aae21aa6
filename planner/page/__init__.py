"""Pages that people open in a browser: one file that loads nothing, its elements, style and charts.

What a page says is written by those who know it: planner/report/page and launcher/run_page.
"""
