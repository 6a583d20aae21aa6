"""The whole file: a frame around a body, with its style, its data and its scripts inside."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from string import Template
from typing import Any

from planner.base.output_file import OutputFile, digest
from planner.base.phrases import Phrase, spoken
from planner.base.text_files import read_text
from planner.page.elements import Markup, joined

LANGUAGE = Phrase("en")
"""The language that the page is written in (BCP 47)."""
FOLDER = Path(__file__).parent
MARK = "<!-- digest: "
IN_SCRIPTS = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}
"""Signs that could end a script's element, as JSON writes them otherwise."""


def page(title: str, body: Markup, *, data: Mapping[str, Any], scripts: Sequence[Path]) -> str:
    """Return the text of a page's file.

    ``data`` are what the scripts work on. The browser runs these scripts and applies this style
    alone: the page's policy names them by their digests, and allows no request.
    """
    style = read_text(FOLDER / "page.css")
    script = "\n".join(map(read_text, (FOLDER / "page.js", *scripts)))
    text = Template(read_text(FOLDER / "page.html")).substitute(
        language=spoken(LANGUAGE),
        title=joined(title),
        style=style,
        style_digest=_digest(style),
        script=script,
        script_digest=_digest(script),
        body=body,
        data=json_text(data),
    )
    return f"{text}{MARK}{digest(text)} -->\n"


def json_text(data: Mapping[str, Any]) -> str:
    r"""Return JSON that may stand in a script's element.

    >>> json_text({"name": "</script>"})
    '{"name":"\\u003c/script\\u003e"}'
    """
    return json.dumps(_said(data), separators=(",", ":")).translate(IN_SCRIPTS)


def _said(data: Any) -> Any:
    """Return plain data with its texts in the language of the process."""
    match data:
        case dict():
            return {key: _said(value) for key, value in data.items()}
        case list() | tuple():
            return list(map(_said, data))
        case Phrase():
            return spoken(data)
    return data


def _digest(text: str) -> str:
    """Return the digest by which a policy names a script or a style."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def is_untouched(text: str) -> bool:
    """Return whether the text is a page exactly as it was written."""
    body, mark, end = text.rpartition(MARK)
    return bool(mark) and end == f"{digest(body)} -->\n"


def page_file(path: Path, *, option: str, force: bool) -> OutputFile:
    """Return the file of a page, which replaces no other file unless ``force`` is set."""
    return OutputFile(
        option=option, path=path, noun=Phrase("a page"), is_untouched=is_untouched, force=force
    )
