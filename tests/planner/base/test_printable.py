"""What others wrote is shown by a terminal and never obeyed."""

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.live import Live
from rich.table import Table
from rich.text import Text

from planner.base.command_line import run_command
from planner.base.console import PrintableConsole
from planner.base.errors import InvalidRequestError
from planner.base.printable import print_text, shown, shown_on_one_line

HOSTILE = "bad\x1b[31mname\x9b2J\u202e\udc80"
SHOWN = r"bad\x1b[31mname\x9b2J\u202e\udc80"


def drawn(*content: object, terminal: bool = False) -> str:
    file = io.StringIO()
    console = PrintableConsole(file=file, width=60, force_terminal=terminal, highlight=False)
    for each in content:
        console.print(each)
    return file.getvalue()


@given(st.text(st.characters(categories=("Cc", "Cf", "Cs", "L", "Zl", "Zp"))))
def test_nothing_is_left_that_controls_a_terminal(text: str) -> None:
    controls = {chr(n) for n in (*range(9), *range(11, 32), *range(127, 160))}
    bidi = {*map(chr, (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)))}
    assert not (controls | bidi) & set(shown(text))
    assert not {"\n", "\t"} & set(shown_on_one_line(text))
    shown(text).encode()  # no half of a surrogate pair


@pytest.mark.parametrize("text", ["数据", "naïve", "a b", "日\tb\n", "\u0646\u200c\u0647", ""])
def test_what_is_only_read_stays(text: str) -> None:
    assert shown(text) == text


def test_a_console_shows_texts_and_cells() -> None:
    table = Table()
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    for content in (HOSTILE, Text(HOSTILE), table):
        output = drawn(content)
        assert SHOWN in output
        assert output == shown(output)


def test_lines_of_a_table_end_together() -> None:
    table = Table()
    table.add_column("name")
    table.add_row(HOSTILE)
    table.add_row("b")
    assert len({len(line) for line in drawn(table).splitlines()}) == 1


def test_styles_and_live_views_stay_its_own() -> None:
    assert drawn(Text(HOSTILE, style="red"), terminal=True) == f"\x1b[31m{SHOWN}\x1b[0m\n"
    file = io.StringIO()
    console = PrintableConsole(file=file, width=60, force_terminal=True)
    with Live(Text(HOSTILE), console=console, auto_refresh=False) as live:
        live.update(Text("next"), refresh=True)
    assert SHOWN in file.getvalue()
    assert "\x1b[?25l" in file.getvalue(), "the cursor is hidden while it draws"


def refuse() -> None:
    """Refuse."""
    raise InvalidRequestError(f"{HOSTILE}\nsecond")


def test_an_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["refuse"])
    assert run_command(refuse) == 2
    assert capsys.readouterr().err == f"error: {SHOWN}\\nsecond\n"


def test_a_printed_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_text(f"{HOSTILE}\n", end="")
    assert capsys.readouterr().out == f"{SHOWN}\n"
