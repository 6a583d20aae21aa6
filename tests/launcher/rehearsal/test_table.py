"""What stands below a rehearsal's table."""

import io

from rich.console import Console

from launcher.rehearsal.table import Comparison, largest_phase, print_comparison
from planner.base.units import MIB
from planner.plan.schema import Plan
from tests.launcher.planned import planned


def printed(made: Plan, found: dict[str, dict[str, int]]) -> str:
    console = Console(file=io.StringIO(), width=80)
    predicted = largest_phase(made.prediction.phases)
    print_comparison(console, made, Comparison("traced", predicted, largest_phase(found)))
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_the_error_is_also_said_without_what_no_trace_has() -> None:
    made = planned(method="lora", micro_batch_size=1)
    held = made.prediction.cublas_bytes
    assert held > 0
    found = {
        phase: parts if phase == "load" else parts | {"workspace": parts["workspace"] - held}
        for phase, parts in made.prediction.phases.items()
    }
    said = printed(made, found)
    theirs = made.prediction.peak_allocated_bytes - held
    assert f"({made.prediction.peak_allocated_bytes / theirs - 1:+.2%})" in said
    note = f"cuBLAS' workspaces of {held / MIB:.1f} MiB are predicted (in workspace), not traced"
    assert f"{note}; without them the difference is +0.00%." in said


def test_one_unit_for_the_table_and_its_peak() -> None:
    made = planned(method="lora", micro_batch_size=1)
    assert made.prediction.peak_allocated_bytes < 1024 * MIB
    said = printed(made, made.prediction.phases)
    assert "memory of a step, MiB" in said
    peak = f"{made.prediction.peak_allocated_bytes / MIB:.1f} MiB"
    assert f"peak allocated: predicted {peak}, traced {peak} (+0.00%)" in said
