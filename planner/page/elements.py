"""HTML as text: elements whose texts are escaped, whoever wrote them, and in the language of the
process."""

from html import escape

from planner.base.phrases import spoken
from planner.base.printable import shown_on_one_line


class Markup(str):
    """Text that is HTML; every other string is text that a page shows."""

    __slots__ = ()


VOID = {"br", "meta"}
"""Elements without an end tag that pages have."""

Attribute = str | int | float | None
Child = str | None


def element(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """Return an element; a child or an attribute that is None is left out.

    Names of attributes are written with underscores for hyphens, and one at the end is dropped. An
    attribute without a value is an empty string.

    >>> element("p", "1 < 2 & ", element("b", "so on"), class_="note", hidden=None)
    '<p class="note">1 &lt; 2 &amp; <b>so on</b></p>'
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{shown}>")
    return Markup(f"<{name}{shown}>{joined(*children)}</{name}>")


def joined(*children: Child) -> Markup:
    """Return children one after the other."""
    return Markup("".join(map(_html, (child for child in children if child is not None))))


def _html(child: str) -> str:
    return (
        child
        if isinstance(child, Markup)
        else escape(shown_on_one_line(spoken(child)), quote=False)
    )


def _value(value: str | int | float) -> str:
    """Return an attribute's value; of a number with a fraction two decimals are enough."""
    text = (
        f"{value:.2f}"
        if isinstance(value, float)
        else spoken(value)
        if isinstance(value, str)
        else str(value)
    )
    return escape(shown_on_one_line(text))
