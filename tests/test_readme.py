"""The READMEs are short, and what they say in figures is what the documentation shows."""

import re

import pytest

from benchmarks.marks import ACCURACY_PAGE, READMES
from benchmarks.simulated import edge
from benchmarks.simulated.__main__ import RESULTS
from benchmarks.simulated.result_rows import read_rows
from benchmarks.simulated.summary import error_of
from planner.base.phrases import Language
from tests.test_layering import ROOT

MOST_LINES = 150
ERRORS: dict[Language, str] = {
    "en": (
        r"median error of (\S+) %\s+\(95 % of them\s+within (\S+) %\).*?"
        r"median error of (\S+) %\s+\(95 % within\s+(\S+) %\)"
    ),
    "zh": "\u4e2d\u4f4d\u6570\u4e3a\\s*(\\S+) %\uff0895 % \u5728 (\\S+) %.*?"
    "\u4e2d\u4f4d\u6570\u4e3a\\s*(\\S+) %\uff0895 % \u5728 (\\S+) %",
}
"""How each README says the errors of memory and speed."""
SIMULATED: dict[Language, str] = {
    "en": r"in (\d+) plans of one card and (\d+) of several was within (\S+) % and (\S+) % .*?"
    r"all of (\d+) plans ran",
    "zh": "(\\d+) \u4e2a\u5355\u5361\u65b9\u6848\u4e0e (\\d+) \u4e2a\u591a\u5361\u65b9\u6848.*?"
    "\u8d85\u8fc7 (\\S+) % \u548c (\\S+) %\uff1b(\\d+) \u4e2a",
}
"""How each README says what was seen on simulated cards."""
TRAINING = ("load", "forward", "backward", "optimizer_step", "save")
"""Phases that it says this of."""


def text_of(language: Language) -> str:
    return READMES[language].read_text(encoding="utf-8")


@pytest.mark.parametrize("language", READMES)
def test_the_readme_is_short_and_names_the_other(language: Language) -> None:
    assert len(text_of(language).splitlines()) <= MOST_LINES
    for other, path in READMES.items():
        assert other == language or f"]({path.name})" in text_of(language)


@pytest.mark.parametrize("language", READMES)
def test_the_command_that_tests_is_the_one_that_the_readme_names(language: Language) -> None:
    assert "$ make test" in text_of(language)
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("language", READMES)
def test_the_errors_are_those_of_the_tables(language: Language) -> None:
    said = re.search(ERRORS[language], text_of(language), re.DOTALL)
    assert said is not None
    page = ACCURACY_PAGE.read_text(encoding="utf-8")
    memory = re.search(r"\| as published \| \*\*all\*\* \| \| \d+ \| (\S+)% \| (\S+)% ", page)
    speed = re.search(r"\| \*\*all\*\* \| \| \d+ \| (\S+)% \| (\S+)% .* of \d+ \|\n", page)
    assert memory is not None
    assert speed is not None
    for figure, measured in zip(said.groups(), (*memory.groups(), *speed.groups()), strict=True):
        digits = len(figure.partition(".")[2])
        assert figure == f"{float(measured):.{digits}f}"


@pytest.mark.parametrize("language", READMES)
def test_what_simulated_cards_counted_is_in_their_rows(language: Language) -> None:
    said = re.search(SIMULATED[language], text_of(language), re.DOTALL)
    assert said is not None
    rows = [row for row in read_rows(RESULTS) if row["phase"] in TRAINING and not row["reason"]]
    plans, worst = [], []
    for several in (False, True):
        those = [row for row in rows if row["point"][0].isdecimal() == several]
        plans.append(str(len({row["point"] for row in those})))
        worst.append(f"{100 * max(abs(error_of(row)) for row in those):.1f}")
    edges = [row for row in read_rows(edge.RESULTS) if not row["reason"]]
    assert said.groups() == (*plans, *worst, str(len(edges)))


def test_both_readmes_show_the_same_commands() -> None:
    english, chinese = (
        {line.partition("#")[0].strip() for line in text_of(each).splitlines() if line[:2] == "$ "}
        for each in ("en", "zh")
    )
    assert english <= chinese
