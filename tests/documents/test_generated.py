"""The generated parts of docs/, the pictures and the list of pages are up to date."""

import re
from pathlib import Path

import pytest
import yaml

from benchmarks.marks import READMES
from tests.documents.pages import (
    DOCS,
    IMAGES,
    PAGES,
    SETTINGS,
    WRITE,
    parts_of,
    with_parts,
)
from tests.documents.picture import COMMAND, pictures
from tests.documents.reference import PARTS

WITH_PARTS = [page for page in PAGES if parts_of(page.read_text(encoding="utf-8"))]
LINK = re.compile(r"\]\(([^)#\s]+)")


@pytest.mark.parametrize("page", WITH_PARTS, ids=lambda page: page.stem)
def test_the_generated_parts_are_those_of_the_source(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert with_parts(text) == text, f"write them with: {WRITE}"


def test_every_key_and_every_option_has_a_meaning() -> None:
    texts = (page.read_text(encoding="utf-8") for page in WITH_PARTS)
    rows = [row for text in texts for row in re.findall(r"^\| `.*\|$", text, re.MULTILINE)]
    assert len(rows) > 500
    assert not [row for row in rows if row.endswith("|  |")]


def test_every_part_has_a_page() -> None:
    written = [name for page in PAGES for name in parts_of(page.read_text(encoding="utf-8"))]
    assert sorted(written) == sorted(PARTS)


def test_the_pictures_are_those_of_the_report() -> None:
    made = {f"report-{name}.svg": svg for name, svg in pictures().items()}
    kept = {path.name: path.read_text(encoding="utf-8") for path in IMAGES.glob("*.svg")}
    assert made == kept, f"write them with: {WRITE}"
    for name, svg in made.items():
        readme = READMES["zh" if "-zh-" in name else "en"]
        assert f"docs/images/{name}" in readme.read_text(encoding="utf-8")
        assert "http" not in svg.replace("http://www.w3.org/2000/svg", ""), "loads from outside"
        assert COMMAND in svg.replace("&#160;", " ")


def test_every_page_is_in_the_list_of_pages() -> None:
    settings = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
    listed: list[str] = []
    for entry in settings["nav"]:
        [pages] = entry.values()
        listed += [pages] if isinstance(pages, str) else pages
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_stay_in_docs(page: Path) -> None:
    """Pages that are built have nothing beside them; files of the source are named in words."""
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).resolve().is_relative_to(DOCS), target
