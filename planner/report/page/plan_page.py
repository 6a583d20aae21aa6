"""The page of a plan, the answer first and what it rests on last."""

from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from planner.base.phrases import Phrase
from planner.base.units import short_gib
from planner.decision.choose import Decision
from planner.decision.state_grid import state_grid
from planner.page.document import page
from planner.page.elements import Child, Markup, element, joined
from planner.page.parts import Column, body, command, facts, section, table
from planner.plan.vocabulary import METHOD_NAMES, PARTS, PHASE_TITLES
from planner.report.alternatives_table import alternative_cells
from planner.report.explain.explained import Explained
from planner.report.explain_tables import (
    BETWEEN_COLUMNS,
    BETWEEN_STEPS,
    MICRO_BATCH,
    mib,
    tensor_rows,
)
from planner.report.machine_report import machine_line, machine_rows
from planner.report.page.explorer_section import Written, explorer_data, explorer_section
from planner.report.page.memory_section import memory_section
from planner.report.prose import Prose
from planner.report.terminal_report import detail_rows
from planner.report.verdict import memory_line, notes, reason_and_time, speed_line
from planner.report.what_if_report import card_words, count_words, limits_line
from planner.report.words import PART_TITLES, batch_line, headline
from planner.search.candidate_between_steps import between_steps

SCRIPT = Path(__file__).parent / "explorer.js"
PAGE_WORDS = {"copied": Phrase("Copied"), "select": Phrase("Press Ctrl+C")}
"""Texts of the script that every page has."""


def plan_page(
    decision: Decision,
    *,
    made_by: str,
    gpus: str,
    written: Written,
    next_steps: list[str],
    explain: bool,
) -> str:
    """Return the text of the page's file.

    ``made_by`` is the command line as typed, ``gpus`` its ``--gpus``, and ``written`` returns it
    with some options changed. ``explain`` adds the tensors of a micro-batch.
    """
    grid = state_grid(decision.request, decision.chosen, gpus)
    explorer = None if grid is None else explorer_section(grid)
    sections = {
        "memory": (Phrase("Memory"), memory_section(decision)),
        "explorer": (Phrase("Explore"), explorer),
        "ways": (Phrase("Other ways"), _other_ways(decision)),
        "limits": (Phrase("Limits"), _limits(decision)),
        "tensors": (Phrase("Tensors"), _tensors(decision) if explain else None),
        "details": (Phrase("Details"), _details(decision)),
    }
    there = {name: (title, content) for name, (title, content) in sections.items() if content}
    data: dict[str, Any] = {"words": PAGE_WORDS}
    if grid is not None:
        data["explorer"] = explorer_data(grid, written)
    return page(
        Phrase(
            "{model}, {method}: plan",
            model=decision.request.model.name,
            method=METHOD_NAMES[decision.chosen.method],
        ),
        body(
            _answer(decision, next_steps),
            [(name, title) for name, (title, _) in there.items()],
            joined(*(content for _, content in there.values())),
            Phrase("Made by: {command}", command=made_by),
        ),
        data=data,
        scripts=[SCRIPT],
    )


def _answer(decision: Decision, next_steps: list[str]) -> Markup:
    chosen = decision.chosen
    runs, *hints = next_steps
    rows: list[tuple[str, Child]] = [
        (Phrase("Method"), headline(chosen)),
        (Phrase("Batch"), batch_line(chosen)),
        (Phrase("Memory"), memory_line(decision)),
        ("", _bar(decision)),
        (Phrase("Speed"), speed_line(decision)),
        *reason_and_time(decision),
        *((Phrase("Note"), element("span", note, class_="note")) for note in notes(decision)),
        (Phrase("Next"), command(runs)),
        *(("", hint) for hint in hints),
    ]
    return joined(
        element("p", Phrase("Plan"), class_="kind"),
        element("h1", decision.request.model.name),
        element("p", *_verdict(decision), class_="verdict"),
        facts(rows),
    )


def _verdict(decision: Decision) -> tuple[Markup, str, str]:
    spare = short_gib(decision.spare_bytes)
    mark = ("tight", Phrase("Fits, tight")) if decision.tight else ("fits", Phrase("Fits"))
    return (
        element("strong", mark[1], class_=f"badge {mark[0]}"),
        " ",
        Phrase(
            "on {machine}, with {spare} GiB free in the worst case.",
            machine=machine_line(decision.request.cluster),
            spare=spare,
        ),
    )


def _bar(decision: Decision) -> Markup:
    """Return the bar of a device's memory: used in any case, in the worst case, and free."""
    memory, budget = decision.chosen.memory, decision.request.budget_bytes
    low, high = 100 * memory.low_bytes / budget, 100 * memory.high_bytes / budget
    words = Phrase(
        "{low} GiB are used in any case, {high} in the worst case, of {budget}",
        low=short_gib(memory.low_bytes),
        high=short_gib(memory.high_bytes),
        budget=short_gib(budget),
    )
    return element(
        "svg",
        element("rect", width="100%", height=10, rx=5, class_="free"),
        element("rect", width=f"{high:.2f}%", height=10, rx=5, class_="perhaps"),
        element("rect", width=f"{low:.2f}%", height=10, rx=5, class_="certain"),
        height=10,
        class_="bar tight" if decision.tight else "bar",
        role="img",
        aria_label=words,
    )


def _other_ways(decision: Decision) -> Markup | None:
    if not decision.alternatives:
        return None
    columns = [
        Column(Phrase("method")),
        Column(Phrase("strategy")),
        Column(Phrase("micro-batch"), is_number=True),
        Column(Phrase("worst GiB"), is_number=True),
        Column("tokens/s", is_number=True),
        Column(Phrase("why not")),
    ]
    rows = [alternative_cells(alternative) for alternative in decision.alternatives]
    caption = Phrase("What else was considered, and why it was not chosen")
    return section("ways", Phrase("Other ways"), table(caption, columns, rows, narrow="stacks"))


def _limits(decision: Decision) -> Markup | None:
    found = decision.what_if
    rows: list[tuple[str, Child]] = []
    if found is not None:
        rows.append((Phrase("Limits"), limits_line(decision, found)))
    if decision.richer is not None:
        rows.append((Phrase("Richer method"), decision.richer))
    if not rows:
        return None
    return section(
        "limits", Phrase("Limits and smallest machines"), facts(rows), _machines(decision)
    )


def _machines(decision: Decision) -> Markup | None:
    found = decision.what_if
    if found is None or not found.machines:
        return None
    ranks = decision.request.cluster.world_size
    columns = [
        Column(Phrase("method")),
        Column(
            Phrase("smallest card")
            if ranks == 1
            else Phrase("smallest card x {ranks}", ranks=ranks)
        ),
        Column(Phrase("fewest cards like these"), is_number=True),
    ]
    rows = [
        [METHOD_NAMES[machine.method], card_words(machine), count_words(decision, machine)]
        for machine in found.machines
    ]
    return table(Phrase("Smallest machine for each method, at this length"), columns, rows)


def _details(decision: Decision) -> Markup:
    rows = [*machine_rows(decision.request.cluster), *detail_rows(decision)]
    return section(
        "details", Phrase("What this rests on"), facts([(n, _plain(v)) for n, v in rows])
    )


def _plain(value: RenderableType) -> str:
    """Return the text of what the report draws in a row of facts."""
    if isinstance(value, Prose):
        return value.text
    assert isinstance(value, str | Text), value
    return value if isinstance(value, str) else str(value)


def _tensors(decision: Decision) -> Markup:
    found, plan = between_steps(decision.chosen), Explained(decision.chosen)
    tables = []
    if plan.ledgers:
        sizes = [
            Column(Phrase("{phase} MiB", phase=PHASE_TITLES[phase]), is_number=True)
            for phase in plan.ledgers
        ]
        columns = [
            Column(Phrase("part")),
            *sizes,
            Column(Phrase("tensors"), is_number=True),
            Column(Phrase("what it is")),
        ]
        tables.append(table(MICRO_BATCH, columns, list(tensor_rows(plan.ledgers))))
    rows = [
        [PART_TITLES[part], *(mib(column.get(part, 0)) for column in found)]
        for part in PARTS
        if any(column.get(part, 0) for column in found)
    ]
    rows.append([Phrase("allocated"), *(mib(sum(column.values())) for column in found)])
    columns = [
        Column(Phrase("part")),
        *(Column(title, is_number=True) for title in BETWEEN_COLUMNS),
    ]
    return section("tensors", Phrase("Tensors"), *tables, table(BETWEEN_STEPS, columns, rows))
