"""What every rank of a run does: build the planned model, train it, save it, report.

The trainer, the engine and the optimizer are the libraries' own, set up as the plan says and
checked before the first step. What starts the ranks is in launcher/run and launcher/lifecycle.
"""
