"""How far a plan is from its limits, and the smallest machine that carries each method."""

from rich.console import Group
from rich.text import Text

from planner.decision.choose import Decision
from planner.decision.smallest_machines import CARD_COUNTS
from planner.decision.what_if import SmallestMachine, WhatIf
from planner.plan.vocabulary import METHOD_NAMES
from planner.report.tables import facts, plain_table


def what_if_section(decision: Decision) -> Group:
    """Return the limits of the plan, and a row for each method; the decision must have them."""
    found = decision.what_if
    assert found is not None
    rows = facts([("Limits", _of_the_plan(decision, found))])
    if not found.machines:
        return Group(rows)
    cluster = decision.request.cluster
    ranks, alone = cluster.world_size, cluster.accelerator.is_slice
    table = plain_table("Smallest machine for each method, at this length")
    table.add_column("method", no_wrap=True)
    table.add_column("smallest card" if ranks == 1 else f"smallest card x {ranks}")
    table.add_column("fewest cards like these", justify="right")
    too_few = "a MIG slice is used singly" if alone else f"none up to {CARD_COUNTS[-1]}"
    for machine in found.machines:
        table.add_row(METHOD_NAMES[machine.method], _card(machine), str(machine.count or too_few))
    return Group(rows, Text(""), table)


def _of_the_plan(decision: Decision, found: WhatIf) -> str:
    layout = decision.chosen.layout
    here = decision.chosen.workload.settings.sequence_length
    return (
        f"at most micro-batch {found.largest_micro_batch} at {here:,} tokens, or "
        f"{found.longest_sequence:,} tokens at micro-batch {layout.micro_batch_size}"
    )


def _card(machine: SmallestMachine) -> str:
    if machine.card is None:
        return "none is large enough"
    return f"{machine.card}, {machine.card_gib} GiB"
