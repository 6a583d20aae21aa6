"""``launch --rehearse --simulate``: plans on the real stack, predicted beside counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.run.read_plan import plan_text
from tests.launcher.launching import Finished, launch
from tests.launcher.planned import planned

NEAR = 0.002
"""Share of the counted bytes; small models have no larger parts."""
READINGS = {"requested", "allocated", "reserved", "device_used"}


def rehearsed(
    folder: Path, cards: str, count: int = 1, *, micro_batch_size: int = 1, **pinned: Any
) -> Finished:
    """Rehearse a plan of a small model on simulated cards."""
    plan = planned(count, micro_batch_size=micro_batch_size, **pinned)
    (folder / "plan.yaml").write_text(plan_text(plan))
    return launch(folder, "--rehearse", "--simulate", cards, "--json")


def assert_near(done: Finished, left_out: tuple[str, ...] = ()) -> None:
    assert done.code == 0, done.errors
    document = json.loads(done.output)
    for phase, readings in document["counted"]["phases"].items():
        assert set(readings) == READINGS
        assert readings["allocated"] <= readings["reserved"] <= readings["device_used"]
        if phase not in left_out:
            predicted = sum(document["predicted"]["phases"][phase].values())
            assert predicted == pytest.approx(readings["allocated"], rel=NEAR), phase


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_every_phase_is_predicted(tmp_path: Path, method: str) -> None:
    """In load, each matrix in the order of the files."""
    done = rehearsed(tmp_path, "rtx-4090", name="llama-3.1-8b", method=method)
    assert_near(done)


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_the_output_of_attention_is_copied_where_heads_lie_apart(
    tmp_path: Path, micro_batch_size: int
) -> None:
    """Flash attention follows its query; with a mask another kernel runs, which does not."""
    done = rehearsed(
        tmp_path,
        "rtx-4090",
        name="pythia-410m",
        shape={"num_layers": 4},
        method="full",
        micro_batch_size=micro_batch_size,
    )
    assert_near(done)


@pytest.mark.parametrize(
    "pinned",
    [
        {"strategy": "ddp"},
        {"strategy": "zero2"},
        {"strategy": "zero3"},
        {"strategy": "zero3", "sequence_parallel_size": 2},
        {"strategy": "tensor"},
    ],
    ids=str,
)
def test_every_phase_of_two_ranks_is_predicted(tmp_path: Path, pinned: dict[str, Any]) -> None:
    done = rehearsed(tmp_path, "rtx-4090:2", 2, name="llama-3.1-8b", method="full", **pinned)
    assert_near(done, left_out=() if pinned == {"strategy": "ddp"} else ("save",))


def test_a_tied_head_that_is_read_outside_of_its_module_is_gathered_once(tmp_path: Path) -> None:
    """By the fused loss under ZeRO-3, and the products of GPT-2's Conv1D keep no input there."""
    done = rehearsed(
        tmp_path,
        "rtx-4090:2",
        2,
        name="gpt2",
        shape={"num_layers": 4},
        method="lora",
        zero_stage=3,
    )
    assert_near(done, left_out=("save",))


def test_a_card_that_is_too_small_is_named(tmp_path: Path) -> None:
    plan = planned(name="llama-3.1-8b", method="lora", shape={"num_layers": 10})
    (tmp_path / "plan.yaml").write_text(plan_text(plan))
    done = launch(tmp_path, "--rehearse", "--simulate", "a100-sxm-40gb/1g.5gb")
    assert done.code == 2
    (line,) = done.errors.splitlines()
    assert line.startswith("error: rank 0 runs out of memory in load on NVIDIA A100-SXM4-40GB MIG")


def test_as_many_cards_as_ranks(tmp_path: Path) -> None:
    done = rehearsed(tmp_path, "rtx-4090:4", 2, method="lora")
    assert (done.code, done.errors) == (
        2,
        "error: --simulate rtx-4090:4: the plan has 2 ranks, one for each GPU: leave :N out\n",
    )
