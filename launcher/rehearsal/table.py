"""A rehearsal's result as a table and as JSON; computes nothing but its layout."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.display.console import console_on
from launcher.rehearsal.phases import Phases, cuts_layers
from planner.base.phrases import Joined, Phrase, spoken
from planner.base.units import GIB, MIB
from planner.plan.schema import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of a comparison."""

    peak_allocated_bytes: int
    """Sum of the largest phase, or its reading."""
    phases: Phases
    """Bytes by phase and part; of a measured side by phase and reading."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A prediction beside what was traced or measured."""

    kind: str
    """``traced``, ``measured`` on a card, or ``counted`` on a simulated one."""
    predicted: Side
    observed: Side
    left_out: tuple[str, ...] = ()
    """Parts that are predicted only, and in neither sum."""


def largest_phase(phases: Phases) -> Side:
    """Return the side of these phases; its peak is the largest sum."""
    peak = max((sum(parts.values()) for parts in phases.values()), default=0)
    return Side(peak_allocated_bytes=peak, phases=phases)


def peak_without_cublas(plan: Plan, phases: Phases) -> int:
    """Return the predicted peak without cuBLAS' workspaces, in bytes.

    A trace on fake tensors has no cuBLAS, and a load comes before the first product.
    """
    held = plan.prediction.cublas_bytes
    return max(
        sum(parts.values()) - (0 if phase == "load" else held) for phase, parts in phases.items()
    )


def as_document(comparison: Comparison) -> str:
    """Return both sides as one line of JSON."""
    return json.dumps(
        {"predicted": asdict(comparison.predicted), comparison.kind: asdict(comparison.observed)}
    )


def show(plan: Plan, comparison: Comparison, *, as_json: bool) -> None:
    """Print a comparison on standard output, as a table or as one line of JSON."""
    if as_json:
        print(as_document(comparison))
    else:
        print_comparison(console_on(sys.stdout), plan, comparison)


def print_comparison(console: Console, plan: Plan, comparison: Comparison) -> None:
    """Draw the table, the line with both peaks, and notes on what is in neither."""
    console.print(_table(plan, comparison))
    console.print()
    console.print(Text(spoken(_verdict(comparison)), style="bold"))
    for line in _notes(plan, comparison):
        console.print(line)


def _table(plan: Plan, comparison: Comparison) -> Table:
    unit, unit_bytes = _unit(comparison)
    table = Table(
        title=Phrase(
            "{name}, {method}: memory of a step, {unit}",
            name=plan.model.name,
            method=plan.method,
            unit=unit,
        ),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column(Phrase("phase"), no_wrap=True)
    traced = comparison.kind == "traced"
    table.add_column(Phrase("part") if traced else Phrase("reading"), no_wrap=True)
    for name in (Phrase("predicted"), Phrase(comparison.kind), Phrase("difference")):
        table.add_column(name, justify="right", no_wrap=True)
    for phase, observed in comparison.observed.phases.items():
        predicted = comparison.predicted.phases.get(phase, {})
        add = _add_phase if traced else _add_readings
        add(table, phase, predicted, observed, unit_bytes)
    return table


def _unit(comparison: Comparison) -> tuple[str, int]:
    return ("GiB", GIB) if comparison.observed.peak_allocated_bytes >= GIB else ("MiB", MIB)


def _add_readings(
    table: Table,
    phase: str,
    predicted: Mapping[str, int],
    observed: Mapping[str, int],
    unit_bytes: int,
) -> None:
    """Add what a device counts; the allocated bytes are the sum of the predicted parts."""
    title = _words(phase)
    for reading, size in observed.items():
        total = sum(predicted.values()) if reading == "allocated" else None
        cells = [
            "" if number is None else _cell(number, unit_bytes)
            for number in (total, size, None if total is None else total - size)
        ]
        last = reading == list(observed)[-1]
        table.add_row(title, _words(reading), *cells, end_section=last)
        title = ""


def _add_phase(
    table: Table,
    phase: str,
    predicted: Mapping[str, int],
    observed: Mapping[str, int],
    unit_bytes: int,
) -> None:
    title = _words(phase)
    for part in dict.fromkeys([*predicted, *observed]):
        cells = _difference(predicted.get(part, 0), observed.get(part, 0), unit_bytes)
        if any(cell != "-" for cell in cells):
            table.add_row(title, _words(part), *cells)
            title = ""
    cells = _difference(sum(predicted.values()), sum(observed.values()), unit_bytes)
    table.add_row(title, Phrase("sum"), *cells, style="bold", end_section=True)


def _difference(predicted: int, observed: int, unit_bytes: int) -> list[str]:
    return [_cell(size, unit_bytes) for size in (predicted, observed, predicted - observed)]


def _cell(num_bytes: int, unit_bytes: int) -> str:
    text = f"{num_bytes / unit_bytes:,.2f}"
    return "-" if float(text.replace(",", "")) == 0 else text


def _words(name: str) -> str:
    return Phrase(name.replace("_", " "))


def _verdict(comparison: Comparison) -> str:
    predicted = comparison.predicted.peak_allocated_bytes
    observed = comparison.observed.peak_allocated_bytes
    return Phrase(
        "peak allocated: predicted {predicted}, {kind} {observed} ({error})",
        predicted=_size(predicted, comparison),
        kind=Phrase(comparison.kind),
        observed=_size(observed, comparison),
        error=_error(predicted, observed),
    )


def _size(num_bytes: int, comparison: Comparison) -> str:
    unit, unit_bytes = _unit(comparison)
    return f"{num_bytes / unit_bytes:,.{3 if unit == 'GiB' else 1}f} {unit}"


def _error(predicted: int, observed: int) -> str:
    """Return the relative error of a prediction; a zero has a plus sign."""
    if not observed:
        return Phrase("nothing to compare with")
    return f"{round(predicted / observed - 1, 4) + 0.0:+.2%}"


def stacking_bytes(plan: Plan) -> int:
    """Return the bytes that the experts of a checkpoint add to a load.

    A rehearsal reads no checkpoint, so it has none of them.
    """
    load = plan.prediction.load_without_files
    return sum(plan.prediction.phases["load"].values()) - sum(load.values()) if load else 0


def _notes(plan: Plan, comparison: Comparison) -> list[str]:
    notes: list[str] = []
    prediction, traced = plan.prediction, comparison.kind == "traced"
    if traced and prediction.cublas_bytes:
        peak = peak_without_cublas(plan, comparison.predicted.phases)
        notes.append(
            Phrase(
                "cuBLAS' workspaces of {size} are predicted (in workspace), not traced; "
                "without them the difference is {error}.",
                size=_size(prediction.cublas_bytes, comparison),
                error=_error(peak, comparison.observed.peak_allocated_bytes),
            )
        )
    if stacks := stacking_bytes(plan):
        notes.append(
            Phrase(
                "A real load stacks experts: {size} more in load, predicted only and in "
                "neither sum. With them the plan's peak is {peak}, in {phase}.",
                size=_size(stacks, comparison),
                peak=_size(prediction.peak_allocated_bytes, comparison),
                phase=_words(prediction.peak_phase),
            )
        )
    if comparison.left_out:
        parts = Joined(", ", map(_words, comparison.left_out))
        layout = Phrase(
            "{strategy} over {world_size}",
            strategy=plan.parallel.strategy,
            world_size=plan.parallel.world_size,
        )
        notes.append(
            Phrase(
                "{layout}: rank 0 is {kind} without the other ranks. Predicted only, and in "
                "neither sum: {parts}.",
                layout=layout,
                kind=Phrase(comparison.kind),
                parts=parts,
            )
        )
    if cuts_layers(plan) and traced:
        notes.append(Phrase("The gathering before a save is predicted only."))
    elif plan.parallel.is_sharded and traced:
        library = "DeepSpeed" if plan.parallel.zero_stage else "FSDP"
        notes.append(
            Phrase(
                "{library}'s optimizer step and its gathering before a save are predicted only.",
                library=library,
            )
        )
    return notes
