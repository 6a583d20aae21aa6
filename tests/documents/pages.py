"""The pages of docs/, and the generated parts between their marks.

A part stands between ``<!-- generated: NAME -->`` and ``<!-- end of generated -->``.
"""

import re

from tests.documents.picture import pictures
from tests.documents.reference import PARTS
from tests.test_layering import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SETTINGS = DOCS / "mkdocs" / "mkdocs.yml"
IMAGES = DOCS / "images"
WRITE = "python -m tests.documents --write"

_PART = re.compile(
    r"(<!-- generated: (?P<name>[^>]+) -->\n).*?(<!-- end of generated -->)", re.DOTALL
)


def parts_of(text: str) -> list[str]:
    """Return the names of the generated parts of a page."""
    return [match["name"] for match in _PART.finditer(text)]


def with_parts(text: str) -> str:
    """Return a page with every generated part as the source has it."""
    return _PART.sub(
        lambda match: f"{match[1]}\n{PARTS[match['name']]()}\n\n{match[3]}",
        text,
    )


def write() -> None:
    """Write the generated parts of every page, and the pictures."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        page.write_text(with_parts(text), encoding="utf-8")
    for name, svg in pictures().items():
        (IMAGES / f"report-{name}.svg").write_text(svg, encoding="utf-8")
