"""A rehearsal's result, as a table and as JSON. Takes finished figures, computes their layout."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.rehearsal.tracer import Phases
from planner.base.units import GIB, MIB
from planner.plan.schema import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Bytes by phase and part, and those of the largest phase."""

    peak_allocated_bytes: int
    phases: Phases


@dataclass(frozen=True, slots=True)
class Comparison:
    kind: str
    """``traced`` or ``measured``."""
    predicted: Side
    found: Side
    left_out: tuple[str, ...] = ()
    """Parts that are predicted only, and in neither sum."""


def largest_phase(phases: Phases) -> Side:
    peak = max((sum(parts.values()) for parts in phases.values()), default=0)
    return Side(peak_allocated_bytes=peak, phases=phases)


def peak_without_cublas(plan: Plan, phases: Phases) -> int:
    """A trace on fake tensors has no cuBLAS, and a load comes before the first product."""
    held = plan.prediction.cublas_bytes
    return max(
        sum(parts.values()) - (0 if phase == "load" else held) for phase, parts in phases.items()
    )


def as_document(comparison: Comparison) -> str:
    return json.dumps(
        {"predicted": asdict(comparison.predicted), comparison.kind: asdict(comparison.found)}
    )


def print_comparison(console: Console, plan: Plan, comparison: Comparison) -> None:
    console.print(_table(plan, comparison))
    console.print()
    console.print(Text(_verdict(comparison), style="bold"))
    for line in _notes(plan, comparison):
        console.print(line)


def _table(plan: Plan, comparison: Comparison) -> Table:
    unit, unit_bytes = _unit(comparison)
    table = Table(
        title=f"{plan.model.name}, {plan.method}: memory of a step, {unit}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("phase", no_wrap=True)
    traced = comparison.kind == "traced"
    table.add_column("part" if traced else "reading", no_wrap=True)
    for name in ("predicted", comparison.kind, "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    for phase, found in comparison.found.phases.items():
        predicted = comparison.predicted.phases.get(phase, {})
        add = _add_phase if traced else _add_readings
        add(table, phase, predicted, found, unit_bytes)
    return table


def _unit(comparison: Comparison) -> tuple[str, int]:
    return ("GiB", GIB) if comparison.found.peak_allocated_bytes >= GIB else ("MiB", MIB)


def _add_readings(
    table: Table,
    phase: str,
    predicted: Mapping[str, int],
    found: Mapping[str, int],
    unit_bytes: int,
) -> None:
    """What a device counts: the allocated bytes are the ones that the parts add up to."""
    title = _words(phase)
    for reading, size in found.items():
        ours = sum(predicted.values()) if reading == "allocated" else None
        cells = [
            "" if number is None else _cell(number, unit_bytes)
            for number in (ours, size, None if ours is None else ours - size)
        ]
        last = reading == list(found)[-1]
        table.add_row(title, _words(reading), *cells, end_section=last)
        title = ""


def _add_phase(
    table: Table,
    phase: str,
    predicted: Mapping[str, int],
    found: Mapping[str, int],
    unit_bytes: int,
) -> None:
    title = _words(phase)
    for part in dict.fromkeys([*predicted, *found]):
        ours, theirs = predicted.get(part, 0), found.get(part, 0)
        cells = [_cell(size, unit_bytes) for size in (ours, theirs, ours - theirs)]
        if any(cell != "-" for cell in cells):
            table.add_row(title, _words(part), *cells)
            title = ""
    ours, theirs = sum(predicted.values()), sum(found.values())
    cells = [_cell(size, unit_bytes) for size in (ours, theirs, ours - theirs)]
    table.add_row(title, "together", *cells, style="bold", end_section=True)


def _cell(num_bytes: int, unit_bytes: int) -> str:
    text = f"{num_bytes / unit_bytes:,.2f}"
    return "-" if float(text.replace(",", "")) == 0 else text


def _words(name: str) -> str:
    return name.replace("_", " ")


def _verdict(comparison: Comparison) -> str:
    ours, theirs = (side.peak_allocated_bytes for side in (comparison.predicted, comparison.found))
    return (
        f"peak allocated: predicted {_size(ours, comparison)}, {comparison.kind} "
        f"{_size(theirs, comparison)} ({_off(ours, theirs)})"
    )


def _size(num_bytes: int, comparison: Comparison) -> str:
    unit, unit_bytes = _unit(comparison)
    return f"{num_bytes / unit_bytes:,.{3 if unit == 'GiB' else 1}f} {unit}"


def _off(ours: int, theirs: int) -> str:
    """Without the sign of a zero."""
    return f"{round(ours / theirs - 1, 4) + 0.0:+.2%}" if theirs else "nothing to compare with"


def stacking_bytes(plan: Plan) -> int:
    """What the experts of a checkpoint add to the load; a rehearsal reads no checkpoint."""
    load = plan.prediction.load_without_files
    return sum(plan.prediction.phases["load"].values()) - sum(load.values()) if load else 0


def _notes(plan: Plan, comparison: Comparison) -> list[str]:
    notes = []
    prediction, traced = plan.prediction, comparison.kind == "traced"
    if traced and prediction.cublas_bytes:
        ours = peak_without_cublas(plan, comparison.predicted.phases)
        notes.append(
            f"cuBLAS' own {_size(prediction.cublas_bytes, comparison)} are predicted (as "
            "workspace), not traced: without them "
            f"{_off(ours, comparison.found.peak_allocated_bytes)}."
        )
    if stacks := stacking_bytes(plan):
        notes.append(
            f"A real load stacks experts: {_size(stacks, comparison)} more in load, predicted only "
            f"and in neither sum. With it the plan's peak is "
            f"{_size(prediction.peak_allocated_bytes, comparison)}, in "
            f"{_words(prediction.peak_phase)}."
        )
    if comparison.left_out:
        parts = ", ".join(_words(part) for part in comparison.left_out)
        layout = f"{plan.parallel.strategy} over {plan.parallel.world_size}"
        notes.append(
            f"{layout}: rank 0 is {comparison.kind} alone. "
            f"Predicted only, and in neither sum: {parts}."
        )
    if plan.parallel.zero_stage and traced:
        notes.append("DeepSpeed's optimizer step and its gathering to save are predicted only.")
    return notes
