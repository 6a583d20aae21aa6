"""The report as a page: its sections, the chart of memory and the explorer of other states."""
