"""The README's table of models, methods and cards is the one that the planner makes."""

from benchmarks.marks import READMES
from benchmarks.overview import MARKS, cell, tables


def test_the_readmes_show_the_table_that_the_planner_makes() -> None:
    for language, table in tables().items():
        text = READMES[language].read_text(encoding="utf-8")
        assert MARKS.with_table(text, table) == text, (
            "accept with: python -m benchmarks.overview --write"
        )


def test_what_fits_no_card_has_a_dash() -> None:
    assert cell("llama-3.1-70b", "full", "rtx-4090") == "-"
