"""The README is short, and what it says in figures is what the documentation shows."""

import re

from benchmarks.marks import ACCURACY_PAGE, README
from tests.test_layering import ROOT

TEXT = README.read_text(encoding="utf-8")
MOST_LINES = 150


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= MOST_LINES


def test_the_command_that_tests_is_the_one_that_the_readme_names() -> None:
    assert "$ make test" in TEXT
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_errors_are_those_of_the_tables() -> None:
    said = re.search(
        r"median error of (\S+) %\s+\(95 % of them\s+within (\S+) %\).*?"
        r"median error of (\S+) %\s+\(95 % within\s+(\S+) %\)",
        TEXT,
        re.DOTALL,
    )
    assert said is not None
    page = ACCURACY_PAGE.read_text(encoding="utf-8")
    memory = re.search(r"\| as published \| \*\*all\*\* \| \| \d+ \| (\S+)% \| (\S+)% ", page)
    speed = re.search(r"\| \*\*all\*\* \| \| \d+ \| (\S+)% \| (\S+)% .* of \d+ \|\n", page)
    assert memory is not None
    assert speed is not None
    for figure, measured in zip(said.groups(), (*memory.groups(), *speed.groups()), strict=True):
        digits = len(figure.partition(".")[2])
        assert figure == f"{float(measured):.{digits}f}"
