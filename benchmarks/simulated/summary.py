"""What the rows say: errors by phase and reading, and every deviation that is not small."""

from collections.abc import Sequence
from itertools import groupby
from statistics import median
from typing import Any

NAMED_FROM = 0.001
"""Share of the counted bytes from which a deviation is named."""
Row = dict[str, Any]


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
