"""The tables of ``plan --explain``: a formula for each part, and the tensors of a micro-batch."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from planner.base.phrases import Joined, Phrase
from planner.base.units import MIB
from planner.decision.choose import Decision
from planner.plan.vocabulary import PARTS, PHASE_TITLES, PHASES, Phase
from planner.report.explain.explained import Explained
from planner.report.explain.formulas import Formula, formulas, managed_memory
from planner.report.explain.ledger import AliveTensors, Ledger
from planner.report.explain.tensor_names import tensor_words
from planner.report.explain.terms import Term
from planner.report.prose import Prose
from planner.report.tables import plain_table
from planner.report.words import PART_TITLES
from planner.search.candidate_between_steps import BetweenSteps, between_steps

BETWEEN_STEPS = Phrase("Between steps: held-out samples, and a sample generated at full length")
BETWEEN_COLUMNS = Phrase("evaluation MiB"), Phrase("generation MiB")
MICRO_BATCH = Phrase("Tensors of a micro-batch, at the largest moment of each phase")
"""Titles of tables and columns, which the page has, too."""
SHOWN = 30
"""Kinds of tensors that have a row of their own; the smaller ones share the last row."""


def explanation(decision: Decision) -> Group:
    """Return the tables behind the memory report of the chosen plan."""
    plan = Explained(decision.chosen)
    tables = [
        _formulas(formulas(plan), managed_memory(plan)),
        *([_tensors(plan.ledgers)] if plan.ledgers else []),
        _between_steps(between_steps(decision.chosen)),
    ]
    return Group(*(each for table in tables for each in (table, Text(""))))


def _formulas(rows: Sequence[Formula], managed: Term | None) -> RenderableType:
    table = plain_table(Phrase("What each part is made of"))
    table.add_column(Phrase("part"), no_wrap=True)
    table.add_column("MiB", justify="right", no_wrap=True)
    table.add_column(Phrase("in which phases, by which formula, and its source"), overflow="fold")
    part = ""
    for row in rows:
        title = "" if row.part == part else PART_TITLES[row.part]
        part = row.part
        table.add_row(title, Text(mib(row.num_bytes), style="bold"), phase_words(row.phases))
        for size, text in _lines(row.terms):
            table.add_row("", size, Prose(text))
        table.add_row("", "", Prose(Joined("\n", row.sources), "dim"))
    if managed is not None:
        name = Phrase("beside the parts, in CUDA managed memory")
        table.add_row(Phrase("managed memory"), Text(mib(managed.num_bytes), style="bold"), name)
        table.add_row("", "", Prose(managed.text))
        table.add_row("", "", Prose(managed.source, "dim"))
    return table


def phase_words(phases: Sequence[Phase]) -> str:
    """Return the names of some phases."""
    if len(phases) == len(PHASES):
        return Phrase("every phase")
    return Joined(", ", (Phrase(phase.replace("_", " ")) for phase in phases))


def _lines(terms: Sequence[Term]) -> Iterator[tuple[str, str]]:
    """Yield the size and the formula of each term; a size of its own only where there are
    several."""
    for number, term in enumerate(terms):
        size = mib(term.num_bytes) if len(terms) > 1 else ""
        yield size, Joined("", ["+ ", term.text]) if number else term.text


def _between_steps(found: BetweenSteps) -> RenderableType:
    """Return a column for each, with the parts of the memory report."""
    table = plain_table(BETWEEN_STEPS)
    table.add_column(Phrase("part"), no_wrap=True)
    for title in BETWEEN_COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    columns = (found.evaluation, found.generation)
    for part in PARTS:
        sizes = [column.get(part, 0) for column in columns]
        if any(sizes):
            table.add_row(PART_TITLES[part], *map(mib, sizes))
    table.add_row(
        Phrase("allocated"), *(mib(sum(column.values())) for column in columns), style="bold"
    )
    table.caption = Phrase(
        "a forward pass without a graph (planner/memory/between_steps.py), beside the states"
    )
    table.caption_justify = "left"
    return table


def _tensors(ledgers: Mapping[Phase, Ledger]) -> RenderableType:
    """Return the tensors of each pass, a column each, by what they are largest in."""
    table = plain_table(MICRO_BATCH)
    table.add_column(Phrase("part"), no_wrap=True)
    for phase in ledgers:
        table.add_column(
            Phrase("{phase} MiB", phase=PHASE_TITLES[phase]), justify="right", no_wrap=True
        )
    table.add_column(Phrase("tensors"), justify="right", no_wrap=True)
    table.add_column(Phrase("what it is"), overflow="fold")
    for cells in tensor_rows(ledgers):
        table.add_row(*cells)
    table.caption = Phrase(
        "made and kept as transformers' forward code does (planner/forward, planner/tape)"
    )
    table.caption_justify = "left"
    return table


def tensor_rows(ledgers: Mapping[Phase, Ledger]) -> Iterator[tuple[str, ...]]:
    """Yield owner, sizes by phase, number and name of each kind of tensor; the smaller kinds are
    one row."""
    kinds = _by_tensor(ledgers)
    for there in kinds[:SHOWN]:
        yield tuple(_tensor_cells(there, ledgers))
    rest = kinds[SHOWN:]
    if rest:
        sizes = [
            sum(there[phase].num_bytes for there in rest if phase in there) for phase in ledgers
        ]
        count = sum(_count(there) for there in rest)
        yield (
            "",
            *map(mib, sizes),
            f"{count:,}",
            Phrase("{count} smaller {count[kind|kinds]}", count=len(rest)),
        )


Tensors = Mapping[Phase, AliveTensors]
"""The tensors of one name and owner, in the phases where they are alive."""


def _by_tensor(ledgers: Mapping[Phase, Ledger]) -> list[Tensors]:
    """Return the tensors of all phases by name, those that are largest in any phase first."""
    found: dict[tuple[str, str], dict[Phase, AliveTensors]] = {}
    for phase, ledger in ledgers.items():
        for tensors in ledger:
            found.setdefault((tensors.owner, tensors.name), {})[phase] = tensors
    return sorted(found.values(), key=lambda there: -max(x.num_bytes for x in there.values()))


def _tensor_cells(there: Tensors, phases: Mapping[Phase, Ledger]) -> Iterator[str]:
    any_phase = next(iter(there.values()))
    yield Phrase(any_phase.owner)
    for phase in phases:
        yield mib(there[phase].num_bytes) if phase in there else "-"
    yield f"{_count(there):,}"
    yield tensor_words(any_phase.name)


def _count(there: Tensors) -> int:
    return max(tensors.count for tensors in there.values())


def mib(num_bytes: int) -> str:
    """Return mebibytes; less than a tenth is shown as such."""
    text = f"{num_bytes / MIB:,.1f}"
    return "<0.1" if num_bytes and text == "0.0" else text
