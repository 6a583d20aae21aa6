"""The report as one HTML page: the terminal's letters, and nothing loaded from outside."""

import io
from html import escape
from pathlib import Path

from rich.console import RenderableType
from rich.terminal_theme import TerminalTheme

from planner.base.console import PrintableConsole
from planner.base.output_file import OutputFile, digest
from planner.base.printable import shown_on_one_line

COLUMNS = 80
CHARACTER_EM = 0.605
"""Width of a character of these fonts: DejaVu Sans Mono, the widest, has 0.602."""
LIGHT = TerminalTheme(
    (255, 255, 255),
    (0, 0, 0),
    [
        (0, 0, 0),
        (185, 28, 28),
        (21, 128, 61),
        (161, 98, 7),
        (29, 78, 216),
        (126, 34, 206),
        (14, 116, 144),
        (107, 114, 128),
    ],
)
"""Colours of at least 4.5 to 1 against white (WCAG 2.2, 1.4.3); what is dim is halfway to it."""
PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>
body {{ margin: 1rem; color: {foreground}; background: {background}; }}
pre {{ width: max-content; max-width: 100%; margin: 0 auto; overflow-x: auto; line-height: 1.35;
  -webkit-text-size-adjust: 100%;
  font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: min(15px, calc((100vw - 2rem) / WIDTH)); }}
</style>
</head>
<body>
<pre>{code}</pre>
</body>
</html>
"""
MARK = "<!-- digest: "


def recording_console(columns: int) -> PrintableConsole:
    """Return a console that keeps what is drawn on it, in all colours, wherever it runs."""
    return PrintableConsole(
        record=True,
        file=io.StringIO(),
        width=columns,
        height=100,
        force_terminal=True,
        color_system="truecolor",
        no_color=False,
        legacy_windows=False,
        highlight=False,
    )


def html_page(title: str, content: RenderableType) -> str:
    """Return a page as wide as a phone: its letters shrink until a line fits."""
    console = recording_console(COLUMNS)
    console.print(content)
    frame = PAGE.replace("WIDTH", f"{COLUMNS * CHARACTER_EM:g}")
    page = console.export_html(theme=LIGHT, code_format=frame, inline_styles=True)
    body = page.replace("TITLE", escape(shown_on_one_line(title)), 1)
    return f"{body}{MARK}{digest(body)} -->\n"


def is_untouched(text: str) -> bool:
    """Return whether the text is a page exactly as it was written."""
    body, mark, end = text.rpartition(MARK)
    return bool(mark) and end == f"{digest(body)} -->\n"


def page_file(path: Path, *, force: bool) -> OutputFile:
    """Return the file of ``--html``, which replaces no other file unless ``force`` is set."""
    return OutputFile(
        option="--html", path=path, noun="a report", is_untouched=is_untouched, force=force
    )
