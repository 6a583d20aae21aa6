"""The results as the table of docs/reference/architectures.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.marks import ROOT, Marks
from planner.plan.vocabulary import METHODS

PAGE: Path = ROOT / "docs" / "reference" / "architectures.md"
MARKS = Marks("<!-- every architecture -->", "<!-- end of every architecture -->")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line for each architecture."""
    lines = [
        f"| `model_type` | class | parameters | how | {' | '.join(METHODS)} |",
        "|---|---|---:|---|" + "---|" * len(METHODS),
    ]
    for row in rows:
        cells = " | ".join(_cell(row["methods"].get(method)) for method in METHODS)
        lines.append(
            f"| `{row['model_type']}` | {row['class'] or '-'} | {_count(row)} | {row['how']} |"
            f" {cells} |"
        )
    return "\n".join(lines)


def _count(row: Mapping[str, Any]) -> str:
    planned, real = row["num_params"], row["built_params"]
    if planned is None or real is None:
        return "-" if real is None else f"{real:,}"
    return f"{planned:,}" if planned == real else f"{planned:,} (built: {real:,})"


def _cell(method: Mapping[str, Any] | None) -> str:
    """Return the seconds of a plan, or why there is none; a vertical bar would end the cell."""
    if method is None:
        return "-"
    if method["fault"] or method["refusal"]:
        text = method["fault"] or f"refused: {method['refusal']}"
        return str(text).replace("|", "/")[:160]
    differs = method["trainable_params"] != method["built_trainable_params"]
    note = f", {method['built_trainable_params']:,} trained by peft" if differs else ""
    return f"{method['seconds']:.1f} s{note}"


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many plans there are of each kind, and what is wrong with them."""
    asked = [method for row in rows for method in row["methods"].values()]
    planned = [method for method in asked if method["planned"] and not method["fault"]]
    return {
        "architectures in this table": len(rows),
        "with formulas": sum(row["how"] == "formulas" for row in rows),
        "plans asked": len(asked),
        "planned": len(planned),
        "refused": sum(bool(method["refusal"]) and not method["fault"] for method in asked),
        "faults": sum(bool(method["fault"]) for method in asked),
        "parameters that differ": sum(
            row["num_params"] not in (None, row["built_params"]) for row in rows
        ),
        "trainable counts that differ": sum(
            method["trainable_params"] != method["built_trainable_params"] for method in planned
        ),
    }
