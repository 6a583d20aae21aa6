"""What pages are built of: sections, tables, facts, commands to copy."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from planner.base.phrases import Phrase
from planner.page.elements import Child, Markup, element, joined

Narrow = Literal["scrolls", "stacks", "folds"]
"""A table that is wider than a screen is scrolled by itself, with a shadow at the side that hides
some of it; or the cells of a row stand below each other, each with its title; or beside each other
below the row's heading."""


class Column(NamedTuple):
    """A column of a table."""

    title: str
    is_number: bool = False


def section(name: str, title: str, *children: Child) -> Markup:
    """Return a section with a heading, to which the link ``#name`` leads."""
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *children, id=name, aria_labelledby=f"{name}-title")


def facts(rows: Sequence[tuple[str, Child]]) -> Markup:
    """Return names with their values; a row without a name belongs to the one above."""
    grouped: list[tuple[str, list[Markup]]] = []
    for name, value in rows:
        if name or not grouped:
            grouped.append((name, []))
        grouped[-1][1].append(element("dd", value))
    return element(
        "dl",
        *(element("div", element("dt", name), *values) for name, values in grouped),
        class_="facts",
    )


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Child]],
    *,
    narrow: Narrow = "scrolls",
) -> Markup:
    """Return a table whose first cells are headings of their rows.

    ``narrow`` says what becomes of it on a narrow screen.
    """
    head = element(
        "tr",
        *(element("th", title, scope="col", class_=_kind(number)) for title, number in columns),
    )
    content = element(
        "table",
        element("caption", caption),
        element("thead", head),
        element("tbody", *(_row(columns, row) for row in rows)),
        class_=None if narrow == "scrolls" else narrow,
    )
    if narrow != "scrolls":
        return content
    return element("div", content, class_="scrolls", tabindex=0, role="group", aria_label=caption)


def _row(columns: Sequence[Column], cells: Sequence[Child]) -> Markup:
    (first, first_is_number), *others = columns
    heading = element("th", cells[0], scope="row", class_=_kind(first_is_number), data_title=first)
    return element(
        "tr",
        heading,
        *(
            element("td", cell, class_=_kind(number), data_title=title)
            for (title, number), cell in zip(others, cells[1:], strict=True)
        ),
    )


def _kind(is_number: bool) -> str | None:
    return "number" if is_number else None


def command(text: str) -> Markup:
    """Return a command with a button that copies it; a line breaks between its words."""
    words = (element("span", word, class_="word") for word in text.split(" "))
    return element(
        "span",
        element("code", *(part for word in words for part in (word, " "))),
        element("button", Phrase("Copy"), type="button", class_="copy"),
        class_="command",
    )


def navigation(links: Sequence[tuple[str, str]]) -> Markup:
    """Return links to the sections of a page, by name and title."""
    items = (element("li", element("a", title, href=f"#{name}")) for name, title in links)
    return element("nav", element("ul", *items), aria_label=Phrase("Sections"))


def body(header: Markup, links: Sequence[tuple[str, str]], sections: Markup, foot: str) -> Markup:
    """Return the landmarks of a page: header, links, main part and footer."""
    return joined(
        element("header", header),
        navigation(links),
        element("main", sections),
        element("footer", element("p", foot)),
    )
