"""How far a plan is from its limits, and the smallest machine that carries each method."""

from rich.console import Group
from rich.text import Text

from planner.base.phrases import Joined, Phrase
from planner.decision.choose import Decision
from planner.decision.smallest_machines import CARD_COUNTS
from planner.decision.what_if import SmallestMachine, WhatIf
from planner.plan.vocabulary import METHOD_NAMES
from planner.report.tables import facts, plain_table


def what_if_section(decision: Decision) -> Group:
    """Return the limits of the plan, and a row for each method; the decision must have them."""
    found = decision.what_if
    assert found is not None
    rows = facts([(Phrase("Limits"), limits_line(decision, found))])
    if not found.machines:
        return Group(rows)
    cluster = decision.request.cluster
    ranks = cluster.world_size
    table = plain_table(Phrase("Smallest machine for each method, at this length"))
    table.add_column(Phrase("method"), no_wrap=True)
    table.add_column(
        Phrase("smallest card") if ranks == 1 else Phrase("smallest card x {ranks}", ranks=ranks)
    )
    table.add_column(Phrase("fewest cards like these"), justify="right")
    for machine in found.machines:
        table.add_row(
            METHOD_NAMES[machine.method], card_words(machine), count_words(decision, machine)
        )
    return Group(rows, Text(""), table)


def limits_line(decision: Decision, found: WhatIf) -> str:
    """Return the largest micro-batch and the longest samples of the plan."""
    layout = decision.chosen.layout
    here = decision.chosen.workload.settings.sequence_length
    return Phrase(
        "at most micro-batch {largest} at {length:,} tokens, or {longest:,} tokens at micro-batch "
        "{micro_batch}",
        largest=found.largest_micro_batch,
        length=here,
        longest=found.longest_sequence,
        micro_batch=layout.micro_batch_size,
    )


def card_words(machine: SmallestMachine) -> str:
    """Return the smallest card that fits a method, with its size."""
    if machine.card is None:
        return Phrase("none is large enough")
    return Joined(", ", [machine.card, f"{machine.card_gib} GiB"])


def count_words(decision: Decision, machine: SmallestMachine) -> str:
    """Return the fewest cards like those here that fit a method, or why there are none."""
    if machine.count is not None:
        return str(machine.count)
    alone = decision.request.cluster.accelerator.is_slice
    if alone:
        return Phrase("a MIG slice is used singly")
    return Phrase("none up to {count}", count=CARD_COUNTS[-1])
