"""How every table of ours looks: a bold title at the left, one rule, no frame."""

from rich import box
from rich.table import Table


def plain_table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
