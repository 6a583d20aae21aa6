"""Memory by phase and part: a chart, a formula for each part, and the table of all cells."""

from collections.abc import Sequence
from itertools import groupby

from planner.base.phrases import Phrase
from planner.base.units import GIB, format_gib, short_gib
from planner.decision.choose import Decision
from planner.page.columns_chart import Line
from planner.page.elements import Markup, element
from planner.page.memory_chart import memory_chart, part_title, swatch
from planner.page.parts import Column, section, table
from planner.plan.vocabulary import PARTS, PHASE_TITLES, PHASES, Part
from planner.report.explain.explained import Explained
from planner.report.explain.formulas import Formula, formulas, managed_memory
from planner.report.explain.terms import Term
from planner.report.explain_tables import mib, phase_words
from planner.report.terminal_report import gib_cell


def memory_section(decision: Decision) -> Markup:
    """Return the section on the chosen plan's memory."""
    on_cpu = decision.request.cluster.device == "cpu"
    chart = element("figure", _chart(decision), element("figcaption", _chart_words(decision)))
    return section(
        "memory",
        Phrase("Memory per device") if on_cpu else Phrase("Memory per GPU"),
        element("div", chart, _parts(decision), class_="beside"),
        _table(decision),
    )


def _chart(decision: Decision) -> Markup:
    phases: dict[str, dict[str, int]] = {
        phase: {part: size for part, size in parts.items()}  # noqa: C416 (wider keys)
        for phase, parts in decision.chosen.footprint.phases.items()
    }
    return memory_chart(phases, _lines(decision), described=_chart_words(decision))


def _lines(decision: Decision) -> list[Line]:
    """Return the lines of the capacity, of what may be used where that is less, and of the worst
    case."""
    capacity = decision.request.cluster.accelerator.capacity_bytes
    budget, high = decision.request.budget_bytes, decision.chosen.memory.high_bytes
    worst = Phrase("worst case {gib}", gib=short_gib(high))
    lines = [Line(high / GIB, worst, "worst", at_end=False)]
    if budget != capacity:
        lines.append(
            Line(budget / GIB, Phrase("usable {gib}", gib=short_gib(budget)), "usable", at_end=True)
        )
    named = Phrase("capacity {gib} GiB", gib=short_gib(capacity))
    return [*lines, Line(capacity / GIB, named, "capacity", at_end=budget == capacity)]


def _chart_words(decision: Decision) -> str:
    footprint, memory = decision.chosen.footprint, decision.chosen.memory
    peak = PHASE_TITLES[footprint.peak_phase]
    return Phrase(
        "Tensors at the largest moment of each phase of a step. The peak is in {peak}, with "
        "{allocated} GiB; the worst case of {high} GiB counts the range of published "
        "measurements, the allocator's cache and the context, too.",
        peak=peak,
        allocated=short_gib(memory.peak_allocated_bytes),
        high=short_gib(memory.high_bytes),
    )


def _parts(decision: Decision) -> Markup:
    """Return the parts with their formulas, the largest one open."""
    explained = Explained(decision.chosen)
    rows = formulas(explained)
    largest = max(rows, key=lambda row: row.num_bytes).part
    by_part = [
        _part(part, list(found), is_open=part == largest)
        for part, found in groupby(rows, key=lambda row: row.part)
    ]
    managed = managed_memory(explained)
    return element(
        "div",
        element("h3", Phrase("What each part is made of")),
        *by_part,
        None if managed is None else _managed(managed),
        class_="parts",
    )


def _part(part: Part, rows: Sequence[Formula], *, is_open: bool) -> Markup:
    most = max(row.num_bytes for row in rows)
    return element(
        "details",
        _summary(part, part_title(part), most),
        *(_formula(row) for row in rows),
        class_="part-formula",
        name="parts",
        data_part=part,
        open="" if is_open else None,
    )


def _managed(term: Term) -> Markup:
    return element(
        "details",
        _summary("managed", Phrase("managed memory, beside the parts"), term.num_bytes),
        element("p", element("code", term.text)),
        _source(term.source),
        class_="part-formula",
        name="parts",
    )


def _summary(kind: str, title: str, num_bytes: int) -> Markup:
    return element(
        "summary",
        swatch(kind),
        element("span", title, class_="name"),
        element("span", f"{gib_cell(num_bytes)} GiB", class_="size"),
    )


def _formula(row: Formula) -> Markup:
    several = len(row.terms) > 1
    terms = (
        element(
            "li",
            element("code", term.text),
            element("span", f" = {mib(term.num_bytes)} MiB", class_="size") if several else None,
        )
        for term in row.terms
    )
    return element(
        "div",
        element(
            "p",
            element("b", f"{mib(row.num_bytes)} MiB"),
            Phrase(" in {phases}", phases=phase_words(row.phases)),
        ),
        element("ul", *terms),
        *map(_source, row.sources),
        class_="formula",
    )


def _source(source: str) -> Markup:
    return element("p", source, class_="source")


def _table(decision: Decision) -> Markup:
    footprint = decision.chosen.footprint
    titles = (
        Phrase("{phase}, peak", phase=PHASE_TITLES[phase])
        if phase == footprint.peak_phase
        else PHASE_TITLES[phase]
        for phase in PHASES
    )
    rows: list[list[str]] = []
    for part in PARTS:
        sizes = [footprint.phases[phase].get(part, 0) for phase in PHASES]
        if any(sizes):
            rows.append([element("span", swatch(part), part_title(part)), *map(gib_cell, sizes)])
    totals = [format_gib(footprint.total_bytes(phase)) for phase in PHASES]
    columns = [Column(Phrase("part")), *(Column(title, is_number=True) for title in titles)]
    return table(
        Phrase("Tensors by part and phase, GiB"),
        columns,
        [*rows, [Phrase("allocated"), *totals]],
        narrow="folds",
    )
