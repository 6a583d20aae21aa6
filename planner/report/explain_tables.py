"""The tables of ``plan --explain``. Takes finished results, computes nothing but their layout."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from planner.base.units import MIB
from planner.decision.choose import Decision
from planner.plan.vocabulary import PARTS
from planner.report.formulas import AliveTensors, Formula, alive_at_the_peak, formulas
from planner.report.tables import plain_table
from planner.report.zero_formulas import Moment, Term, deepspeed_moments
from planner.search.between_steps import BetweenSteps, between_steps

SHOWN = 30


def explanation(decision: Decision) -> Group:
    """Every part that a step always holds by its formula, and every tensor beside them."""
    chosen = decision.chosen
    parts: list[RenderableType] = [
        _formulas(formulas(chosen)),
        Text(""),
        *_deepspeed(deepspeed_moments(chosen)),
        _tensors(alive_at_the_peak(chosen)),
        Text(""),
        _between_steps(between_steps(chosen)),
        Text(""),
    ]
    return Group(*parts)


def _formulas(rows: Sequence[Formula]) -> RenderableType:
    table = plain_table("What a step always holds")
    table.add_column("part", no_wrap=True)
    table.add_column("MiB", justify="right", no_wrap=True)
    table.add_column("formula, and its source", overflow="fold")
    for row in rows:
        text = Text.assemble(row.formula, "\n", (row.source, "dim"))
        table.add_row(row.part, _mib(row.num_bytes), text)
    return table


def _deepspeed(rows: Sequence[Moment]) -> list[RenderableType]:
    """Nothing where DeepSpeed does not run."""
    rows = [row for row in rows if row.phase != "optimizer_step"]
    if not rows:
        return []
    table = plain_table("What DeepSpeed holds at the largest moment of the other phases")
    table.add_column("phase", no_wrap=True)
    table.add_column("part", no_wrap=True)
    table.add_column("MiB", justify="right", no_wrap=True)
    table.add_column("terms, and their source", overflow="fold")
    phase = ""
    for row in rows:
        text = Text.assemble(_terms(row.terms), "\n", (row.source, "dim"))
        title = "" if row.phase == phase else row.phase.replace("_", " ")
        phase = row.phase
        table.add_row(title, row.part.replace("_", " "), _mib(row.num_bytes), text)
    return [table, Text("")]


def _terms(terms: Sequence[Term]) -> str:
    """Each with its own size, where there are several."""
    if len(terms) == 1:
        return terms[0][0]
    return "\n".join(f"{_mib(num_bytes)} {words}" for words, num_bytes in terms)


def _between_steps(found: BetweenSteps) -> RenderableType:
    """A column each, with the parts of the memory report."""
    table = plain_table("Between steps: held-out samples, and a sample generated at full length")
    table.add_column("part", no_wrap=True)
    table.add_column("evaluation MiB", justify="right", no_wrap=True)
    table.add_column("generation MiB", justify="right", no_wrap=True)
    columns = (found.evaluation, found.generation)
    for part in PARTS:
        sizes = [column.get(part, 0) for column in columns]
        if any(sizes):
            table.add_row(part.replace("_", " "), *map(_mib, sizes))
    table.add_row("allocated", *(_mib(sum(column.values())) for column in columns), style="bold")
    table.caption = (
        "a forward pass without a graph (planner/memory/between_steps.py), beside the states"
    )
    table.caption_justify = "left"
    return table


def _tensors(rows: Sequence[AliveTensors]) -> RenderableType:
    table = plain_table("Tensors at the largest moment of a micro-batch")
    table.add_column("part", no_wrap=True)
    table.add_column("MiB", justify="right", no_wrap=True)
    table.add_column("tensors", justify="right", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for row in rows[:SHOWN]:
        table.add_row(row.owner, _mib(row.num_bytes), f"{row.count:,}", row.name)
    if len(rows) > SHOWN:
        rest = rows[SHOWN:]
        total, count = sum(row.num_bytes for row in rest), sum(row.count for row in rest)
        table.add_row("", _mib(total), f"{count:,}", f"{len(rest)} smaller kinds")
    table.caption = (
        "made and kept as transformers' forward code does (planner/forward, planner/tape)"
    )
    table.caption_justify = "left"
    return table


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / MIB:,.1f}"
