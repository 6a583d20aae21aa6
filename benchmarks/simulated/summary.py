"""What the rows say: errors by phase and reading, and every deviation that is not small."""

from collections.abc import Sequence
from statistics import median
from typing import Any

NAMED_FROM = 0.001
"""Share of the counted bytes from which a deviation is named."""
Row = dict[str, Any]


def error_of(row: Row) -> float:
    """Return (predicted - counted) / counted of the allocated bytes."""
    return int(row["predicted_bytes"]) / int(row["allocated_bytes"]) - 1


def summary(rows: Sequence[Row]) -> str:
    """Return a table of errors by phase, then the deviations, then what did not run."""
    counted = [row for row in rows if not row["reason"]]
    lines = []
    for phase in dict.fromkeys(row["phase"] for row in counted):
        errors = sorted((error_of(row) for row in counted if row["phase"] == phase), key=abs)
        middle = median(map(abs, errors))
        lines.append(f"{phase}: {len(errors)}, median {middle:.4%}, worst {errors[-1]:+.4%}")
    outside = [row for row in counted if abs(error_of(row)) > NAMED_FROM]
    lines += [
        f"{row['point']} {row['phase']}: {error_of(row):+.3%} "
        f"({int(row['predicted_bytes']) - int(row['allocated_bytes']):+,} bytes)"
        for row in outside
    ]
    lines += [f"{row['point']}: {row['reason']}" for row in rows if row["reason"]]
    return "\n".join(lines)
