"""The table of a run's nodes and the links between them."""

from rich import box
from rich.table import Table

from launcher.nodes.agreement import rate
from launcher.nodes.meeting_result import MeetingResult
from planner.base.phrases import Phrase

HEADINGS = (
    Phrase("node"),
    Phrase("address"),
    Phrase("interface"),
    Phrase("cards"),
    Phrase("driver"),
)


def nodes_table(result: MeetingResult) -> Table:
    """Return the table of the nodes that met, a row per node."""
    title = Phrase(
        "{count} {count[node|nodes]}, all-reduce {rate}",
        count=len(result.nodes),
        rate=rate(result.all_reduce_bytes_per_s),
    )
    table = Table(box=box.SIMPLE_HEAD, title=title, title_style="bold")
    for name in HEADINGS:
        table.add_column(name)
    for name in (Phrase("clock"), Phrase("slowest link from it")):
        table.add_column(name, justify="right")
    for number, (node, clock) in enumerate(zip(result.nodes, result.clocks, strict=True)):
        sent = [link.bytes_per_s for link in result.links if link.sender == number]
        table.add_row(
            node.name + Phrase(" (leads)") if node.leads else node.name,
            node.address,
            node.interface,
            node.cards,
            node.driver or "-",
            f"{clock.offset_s:+.3f} s" if number else "-",
            rate(min(sent)) if sent else "-",
        )
    return table
