"""Tables of the matrix before and after it was run, from finished results."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.errors import error_statistics, relative_error
from benchmarks.measure.matrix import Row
from planner.base.units import GIB

Result = Mapping[str, Any] | None


def list_table(
    rows: Sequence[Row], predicted: Sequence[int | str], results: Sequence[Result]
) -> Table:
    """Return a table of every row: what is predicted, or why no prediction is made, and whether it
    was run."""
    table = _table("the matrix, in the order it is run", ("peak GiB", "done"))
    for number, (row, size, result) in enumerate(zip(rows, predicted, results, strict=True), 1):
        peak = _gib(size) if isinstance(size, int) else "-"
        status = result["measured"]["status"] if result is not None else ""
        table.add_row(f"{number}", row.name, peak, status)
    return table


def summary_table(rows: Sequence[Row], results: Sequence[Result]) -> Table:
    """Return a table of predicted beside measured GiB: allocated on a GPU, growth of the process on
    the CPU."""
    table = _table(
        "predicted and measured, GiB",
        ("predicted", "measured", "error", "reserved", "device", "step s"),
    )
    for number, (row, result) in enumerate(zip(rows, results, strict=True), 1):
        if result is not None:
            table.add_row(f"{number}", row.name, *_cells(result))
    return table


def reason_lines(rows: Sequence[Row], results: Sequence[Result]) -> list[str]:
    """Return a line for each row that did not end well."""
    return [
        f"{row.name}: {result['measured']['status']}: {result['measured']['reason']}"
        for row, result in zip(rows, results, strict=True)
        if result is not None and result["measured"]["status"] != "ok"
    ]


def closing_line(results: Sequence[Result]) -> str:
    """Return the number of rows of each kind, and the errors of those that were measured."""
    found = [result for result in results if result is not None]
    errors = [error for result in found if (error := error_of(result)) is not None]
    line = f"{len(found)} of {len(results)} rows have a result, {len(errors)} of them a peak"
    if not errors:
        return f"{line}."
    known = error_statistics(errors)
    return (
        f"{line}: median {known.median:.2%}, 95th percentile {known.percentile_95:.2%}, "
        f"worst {known.worst:+.2%}."
    )


def measured_bytes(result: Mapping[str, Any]) -> int | None:
    """Return the measured bytes that the prediction of allocated bytes is compared with."""
    measured = result["measured"]
    if measured["status"] != "ok":
        return None
    allocated: int | None = measured["peak_allocated_bytes"]
    if allocated is not None:
        return allocated
    grown: int = measured["peak_resident_bytes"] - measured["resident_before_bytes"]
    return grown


def error_of(result: Mapping[str, Any]) -> float | None:
    measured = measured_bytes(result)
    if measured is None:
        return None
    return relative_error(predicted=result["predicted"]["allocated"], measured=measured)


def _cells(result: Mapping[str, Any]) -> list[str]:
    measured, predicted = result["measured"], result["predicted"]
    ours = "-" if predicted is None else _gib(predicted["allocated"])
    if measured["status"] != "ok":
        return [ours, measured["status"], _foresight(result), "", "", ""]
    error = error_of(result)
    spread = measured["step_time_s"]
    return [
        ours,
        _gib(measured_bytes(result)),
        "" if error is None else f"{error:+.2%}",
        _gib(measured["peak_reserved_bytes"]),
        _gib(measured["device_used_bytes"]),
        "" if spread is None else f"{spread['median']:.3f}",
    ]


def _foresight(result: Mapping[str, Any]) -> str:
    """Return whether the planner would have refused a run that did not fit on the card."""
    if result["measured"]["status"] != "oom" or "device_used" not in result["predicted"]:
        return ""
    capacity = result["environment"]["device"]["capacity_bytes"]
    return "foreseen" if result["predicted"]["device_used"] > capacity else "not foreseen"


def _gib(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f"{num_bytes / GIB:,.3f}"


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("row", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table
