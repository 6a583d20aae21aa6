"""``launch --html RUN``: the page of a run, or of two, written to a file."""

from collections.abc import Sequence
from pathlib import Path

from launcher.run_page.page_of_runs import page_of_runs
from launcher.run_page.run_record import read_run
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.page.document import page_file

MOST_RUNS = 2
PAGE_OF_ONE = "report.html"
"""Name of the file in the run directory, where none is named."""
PAGE_OF_TWO = Path("runs.html")
"""File of two runs, where none is named."""


def write_page(runs: Sequence[Path], output: Path | None) -> Path:
    """Write the page and return its file.

    Raise InvalidRequestError for more than two runs, for a folder that is none of a run, and for a
    file that is not an unedited page.
    """
    if len(runs) > MOST_RUNS:
        raise InvalidRequestError(
            Phrase("--html shows one run or two beside each other, not {number}", number=len(runs))
        )
    records = [read_run(run) for run in runs]
    file = output or (runs[0] / PAGE_OF_ONE if len(runs) == 1 else PAGE_OF_TWO)
    page_file(file, option="--output", force=False).write(page_of_runs(records))
    return file
