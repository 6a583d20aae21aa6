"""Presets as a table, or as paragraphs where a table has no room: no name and no number is cut."""

import io

import pytest
from rich.console import Console

from planner.base.preset_files import Kind
from planner.report.listing import COLUMNS, listed, listing


def printed(kind: Kind, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(listing(kind))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("kind", COLUMNS)
def test_no_name_and_no_number_is_cut(kind: Kind, width: int) -> None:
    lines = printed(kind, width)
    assert max(map(len, lines)) <= width
    words = {word.rstrip(",") for line in lines for word in line.split()}
    for record in listed(kind):
        assert record["name"] in words
        if kind == "gpus":
            assert f"{record['capacity_bytes'] / 2**30:.1f}" in words
        if kind == "recipes":
            assert f"{record['learning_rate']:g}" in words


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_wide_terminal_has_a_table(kind: Kind) -> None:
    header, *_ = printed(kind, 140)
    assert header.split("  ")[0] == COLUMNS[kind][0]
    assert len(printed(kind, 60)) > len(listed(kind))
