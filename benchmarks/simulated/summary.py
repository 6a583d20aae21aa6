"""What the rows say: errors by phase and reading, and every deviation that is not small."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from statistics import median

from benchmarks.marks import ROOT, Marks
from benchmarks.simulated.result_rows import Row

NAMED_FROM = 0.001
"""Share of the counted bytes from which a deviation is named."""
PAGE = ROOT / "docs" / "explanation" / "simulated-cards.md"
MARKS = Marks("<!-- simulated -->", "<!-- end of simulated -->")
RESERVED = {
    "plan_reserved_bytes": "reserved, as `plan` expects it",
    "replayed_bytes": "reserved, all layers replayed",
}


def error_of(row: Row) -> float:
    """Return (predicted - counted) / counted of the allocated bytes."""
    return int(row["predicted_bytes"]) / int(row["allocated_bytes"]) - 1


def reserved(counted: Sequence[Row]) -> list[str]:
    """Return the errors of both predictions of reserved memory over whole runs, and the runs that
    take more of the device than the plan's highest figure."""
    runs = [list(run) for _, run in groupby(counted, key=lambda row: row["point"])]
    lines = []
    for column in ("plan_reserved_bytes", "replayed_bytes"):
        known = [run for run in runs if run[0][column]]
        errors = sorted(
            (int(run[0][column]) / _most(run, "reserved_bytes") - 1 for run in known), key=abs
        )
        if errors:
            middle, worst = median(map(abs, errors)), errors[-1]
            lines.append(f"{column}: {len(errors)}, median {middle:.2%}, worst {worst:+.2%}")
    above = [(run[0], _most(run, "device_bytes") - int(run[0]["plan_high_bytes"])) for run in runs]
    lines += [
        f"{row['point']}: {more:+,} bytes above the plan's" for row, more in above if more > 0
    ]
    return lines


def _most(run: Sequence[Row], column: str) -> int:
    return max(int(row[column]) for row in run)


def summary(rows: Sequence[Row]) -> str:
    """Return a table of errors by phase, then the deviations, then what did not run."""
    counted = [row for row in rows if not row["reason"]]
    lines = []
    for phase in dict.fromkeys(row["phase"] for row in counted):
        errors = sorted((error_of(row) for row in counted if row["phase"] == phase), key=abs)
        middle = median(map(abs, errors))
        lines.append(f"{phase}: {len(errors)}, median {middle:.4%}, worst {errors[-1]:+.4%}")
    lines += reserved(counted)
    outside = [row for row in counted if abs(error_of(row)) > NAMED_FROM]
    lines += [
        f"{row['point']} {row['phase']}: {error_of(row):+.3%} "
        f"({int(row['predicted_bytes']) - int(row['allocated_bytes']):+,} bytes)"
        for row in outside
    ]
    lines += [f"{row['point']}: {row['reason']}" for row in rows if row["reason"]]
    return "\n".join(lines)


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of the documentation: plans and errors by number of cards and reading."""
    counted = [row for row in rows if not row["reason"]]
    lines = ["| cards | what | plans | median | worst |", "|---|---|---:|---:|---:|"]
    for cards, group in (("one", _of_cards(counted, 1)), ("2 or 4", _of_cards(counted, 2))):
        for phase in dict.fromkeys(row["phase"] for row in group):
            errors = [error_of(row) for row in group if row["phase"] == phase]
            lines.append(_line(cards, f"allocated, {phase.replace('_', ' ')}", errors))
        runs = [list(run) for _, run in groupby(group, key=lambda row: row["point"])]
        for column, words in RESERVED.items():
            known = [run for run in runs if run[0][column]]
            errors = [int(run[0][column]) / _most(run, "reserved_bytes") - 1 for run in known]
            lines += [_line(cards, words, errors)] if errors else []
    return "\n".join(lines)


def _of_cards(rows: Iterable[Row], least: int) -> list[Row]:
    """Return the rows of one card, or of at least so many."""
    return [row for row in rows if row["point"][0].isdecimal() == (least > 1)]


def _line(cards: str, words: str, errors: Sequence[float]) -> str:
    middle, worst = median(map(abs, errors)), max(errors, key=abs)
    return f"| {cards} | {words} | {len(errors)} | {middle:.3%} | {worst:+.3%} |"
