"""A rehearsal reads no files, so the experts that a real load stacks are said and not compared."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launcher.rehearsal.rehearse import compare, quiet_libraries
from launcher.rehearsal.table import Comparison, Side, print_comparison
from launcher.run.read_plan import plan_text
from planner.plan.schema import Plan
from tests.launcher.launching import launch
from tests.launcher.planned import planned

EXPERTS: dict[str, Any] = {"num_layers": 2, "vocab_size": 8192, "max_position_embeddings": 1024}
"""Real widths, so that the stacks of one layer are most of a peak."""


CODES_BYTES = 16 * 1024
"""At most, what bitsandbytes' tables of codes take while one matrix is quantized."""


def mixture(count: int = 1, *, name: str = "olmoe-1b-7b", **pinned: Any) -> Plan:
    pinned = {"micro_batch_size": 1, "activation_checkpointing": True} | pinned
    return planned(count, name=name, shape=EXPERTS, **pinned)


def total(parts: dict[str, int]) -> int:
    return sum(parts.values())


@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
@pytest.mark.parametrize("name", ["olmoe-1b-7b", "deepseek-v2-lite"])
def test_experts_are_stacked_by_the_plan_and_not_by_its_rehearsal(name: str, method: Any) -> None:
    made = mixture(name=name, method=method)
    with quiet_libraries():
        found = compare(made)
    ours, theirs = (side.phases["load"] for side in (found.predicted, found.observed))
    made_whole = ours.get("workspace", 0)
    assert -CODES_BYTES <= total(ours) - total(theirs) <= made_whole
    assert total(made.prediction.phases["load"]) > 1.1 * total(theirs)
    predicted = found.predicted.peak_allocated_bytes - made.prediction.cublas_bytes
    assert predicted == pytest.approx(found.observed.peak_allocated_bytes, rel=0.02)


def test_adapters_of_experts_take_what_is_predicted_at_real_widths() -> None:
    """In 4 bit, phase by phase, cuBLAS' workspaces aside, which are not traced."""
    made = mixture(
        method="qlora", lora_targets=("all-linear", "experts"), lora_dropout=0.0, lora_rank=16
    )
    with quiet_libraries():
        found = compare(made)
    for phase in ("forward", "backward", "optimizer_step"):
        predicted = total(found.predicted.phases[phase]) - made.prediction.cublas_bytes
        assert predicted == pytest.approx(total(found.observed.phases[phase]), rel=0.0005)


def test_one_of_several_ranks_is_rehearsed_without_stacks_too() -> None:
    made = mixture(2, method="lora", zero_stage=2)
    with quiet_libraries():
        found = compare(made)
    loads = [total(side.phases["load"]) for side in (found.predicted, found.observed)]
    assert loads[0] == pytest.approx(loads[1], rel=0.005)


def test_the_table_says_what_a_real_load_adds(tmp_path: Path) -> None:
    made = mixture(method="qlora")
    (tmp_path / "plan.yaml").write_text(plan_text(made), encoding="utf-8")
    done = launch(tmp_path, "--rehearse", CUDA_VISIBLE_DEVICES="")
    assert done.code == 0, done.errors
    said = " ".join(done.output.split())
    loads = made.prediction.phases["load"], made.prediction.load_without_files
    of_files, without = (sum(each.values()) for each in loads)
    more = f"{(of_files - without) / 2**30:.3f} GiB"
    assert f"A real load stacks experts: {more} more in load, predicted only" in said
    peak = f"{made.prediction.peak_allocated_bytes / 2**30:.3f} GiB, in load."
    assert f"With them the plan's peak is {peak}" in said


@pytest.mark.long
def test_the_document_of_a_mixture_has_the_same_keys(tmp_path: Path) -> None:
    made = mixture(method="qlora")
    (tmp_path / "plan.yaml").write_text(plan_text(made), encoding="utf-8")
    done = launch(tmp_path, "--rehearse", "--json", CUDA_VISIBLE_DEVICES="")
    document = json.loads(done.output)
    assert {name: list(side) for name, side in document.items()} == {
        "predicted": ["peak_allocated_bytes", "phases"],
        "traced": ["peak_allocated_bytes", "phases"],
    }
    load = document["predicted"]["phases"]["load"]
    assert load == made.prediction.load_without_files
    assert document["predicted"]["peak_allocated_bytes"] < made.prediction.peak_allocated_bytes


def test_where_nothing_is_stacked_nothing_is_said() -> None:
    made = planned(method="lora", micro_batch_size=1)
    assert made.prediction.load_without_files == {}
    phases = made.prediction.phases
    side = Side(peak_allocated_bytes=1, phases=phases)
    console = Console(file=io.StringIO(), width=100)
    print_comparison(console, made, Comparison("traced", side, side))
    assert "stacks" not in console.file.getvalue()  # type: ignore[attr-defined]
