"""What both commands draw: pages that people open in a browser, one file that loads nothing, with
their elements, style and charts; and the table that shows several things side by side.

What a page says is written by those who know it: planner/report/page and launcher/run_page.
"""
