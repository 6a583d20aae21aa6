"""Text that others wrote, made fit for a terminal: what controls one is shown, not obeyed.

Names of models and files, fields of data and messages of libraries reach the terminal and logs.
An escape sequence in one could recolour, retitle or overwrite what is there, and a right-to-left
override could make a line read as another.
"""

import re
import sys
from typing import TextIO

from planner.base.phrases import spoken

_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029"
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_SURROGATES = "\ud800-\udfff"
_HIDDEN = f"[{_CONTROLS}{_BIDI}{_SURROGATES}]"
_HIDDEN_OR_BREAK = f"[\t\n{_CONTROLS}{_BIDI}{_SURROGATES}]"


def shown(text: str) -> str:
    r"""Return a text whose controls, overrides of direction and surrogates are escapes.

    Line breaks and tabs stay.

    >>> shown("a\x1b[31mb\u202e\n")
    'a\\x1b[31mb\\u202e\n'
    """
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return re.sub(_HIDDEN, _escape, text)


def shown_on_one_line(text: str) -> str:
    r"""Return the same with line breaks and tabs as escapes, too.

    >>> shown_on_one_line("a\nb")
    'a\\nb'
    """
    return text if text.isprintable() else re.sub(_HIDDEN_OR_BREAK, _escape, text)


def print_text(text: str, file: TextIO | None = None, *, end: str = "\n") -> None:
    """Print a text for people at once, in their language; ``file`` is standard output if None."""
    print(shown(spoken(text)), file=sys.stdout if file is None else file, end=end, flush=True)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode()
