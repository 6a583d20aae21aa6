"""Runs that go wrong: what is lost, what is said, and how they go on.

Real training of a tiny model, one or two gloo ranks, each started by ``execute`` as launch does.
"""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.run.checkpoints import last_whole
from tests.launcher.forked import Launcher
from tests.launcher.interrupted import DROPOUT, EVALUATION, evaluations, resume
from tests.launcher.launching import write_plan
from tests.launcher.plans import SIXTEEN_BIT, TWO_RANKS, full, parallel

WHOLE_BATCH = {
    "micro_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "global_batch_size": 16,
    "sequence_length": 128,
}
"""A step of one micro-batch, which fallbacks halve."""


def test_evaluation_answers_and_stops_early(
    launcher: Launcher, tiny_checkpoint: Path, folder: Path
) -> None:
    """In fp32, with LoRA+; nothing is learnt at such a rate, so patience ends."""
    write_plan(
        folder,
        model__source=str(tiny_checkpoint),
        precision={"compute": "fp32", "frozen": "fp32", "trainable": "fp32", "master": None},
        optimizer__learning_rate=1e-30,
        optimizer__lora_plus_ratio=16.0,
        schedule={"kind": "linear", "warmup_ratio": 0.5},
        data__validation_fraction=0.25,
        training={
            "max_steps": 9,
            "evaluation": {**EVALUATION, "every_steps": 1, "early_stop_patience": 2},
        },
    )
    done = launcher.run(folder)
    assert done.code == 0, done.errors
    assert [row["step"] for row in done.metrics] == [1, 2, 3]
    report = done.read("report.json")
    assert report["training"]["num_steps"] == 3
    assert report["setup"]["autocast_dtype"] is None
    looked_at = [json.loads(line) for line in evaluations(done).splitlines()]
    assert [each["step"] for each in looked_at] == [1, 2, 3]
    assert len({each["eval_loss"] for each in looked_at}) == 1
    (answer,) = looked_at[0]["answers"]
    assert answer["prompt"].endswith("<|role|>assistant\n")
    assert answer["expected"].startswith("Fact ")
    assert answer["answer"]


def test_out_of_memory_at_every_stage(
    launcher: Launcher, tiny_checkpoint: Path, folder: Path
) -> None:
    """Each time a leaner layout of same global batch goes on from the last checkpoint."""
    sizes = (8, 4, 2, 1)
    write_plan(
        folder,
        model__source=str(tiny_checkpoint),
        batch=WHOLE_BATCH,
        training={"max_steps": 4, "save_steps": 1},
        fallbacks=[fallback(size, 16 // size) for size in sizes],
    )
    launcher.fault = (
        "memory@load:0+8 memory@forward:1+4 memory@backward:2+2 memory@optimizer_step:3+1"
    )
    done = launcher.run(folder)
    assert done.code == 0, done.errors
    attempts = done.read("report.json")["attempts"]
    assert [(each["micro_batch_size"], each["from_step"], each["ended"]) for each in attempts] == [
        (16, 0, "out of memory on rank 0, load"),
        (8, 0, "out of memory on rank 0, forward of step 1"),
        (4, 0, "out of memory on rank 0, backward of step 2"),
        (2, 1, "out of memory on rank 0, optimizer step of step 3"),
        (1, 2, "finished"),
    ]
    assert launcher.said[3] == (
        "out of memory on rank 0, optimizer step of step 3: resuming from step 2 with "
        "micro-batches of 1 x 16, no activation checkpointing, same global batch"
    )
    assert [row["step"] for row in done.metrics] == [1, 2, 3, 4]
    assert done.losses[-1] < done.losses[0]


def fallback(micro: int, accumulation: int, **changes: Any) -> dict[str, Any]:
    return {
        "micro_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "activation_checkpointing": False,
        "strategy": "single",
        "peak_allocated_bytes": micro * 2**20,
        **changes,
    }


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {"parallel": parallel("tensor"), "adapter": DROPOUT},
        full(
            parallel={**parallel("zero1"), "sequence_parallel_size": 2},
            precision=SIXTEEN_BIT,
        ),
    ],
    ids=["tensor", "shared-sequences"],
)
def test_out_of_memory_on_one_of_two_ranks_that_share_samples(
    changes: dict[str, Any], launcher: Launcher, tiny_checkpoint: Path, folder: Path
) -> None:
    """While the other rank waits for it; then as both write a checkpoint."""
    strategy = changes["parallel"]["strategy"]
    write_plan(
        folder,
        model__source=str(tiny_checkpoint),
        batch=WHOLE_BATCH,
        training={"max_steps": 2, "save_steps": 1},
        fallbacks=[
            fallback(8, 2, strategy=strategy),
            fallback(4, 4, strategy=strategy, activation_checkpointing=True),
        ],
        **changes,
    )
    launcher.fault = "memory@backward:2/1+8 memory@save:2/0+4"
    done = launcher.run(folder)
    assert done.code == 0, done.errors
    layouts = [(each["micro_batch_size"], each["from_step"]) for each in done.attempts]
    assert layouts == [(16, 0), (8, 1), (4, 1)]
    assert [each["ended"] for each in done.attempts] == [
        "out of memory on rank 1, backward of step 2",
        "out of memory on rank 0, save of step 2",
        "finished",
    ]
    assert [row["step"] for row in done.metrics] == [1, 2]
    assert done.losses[1] < done.losses[0]


def test_layouts_that_cannot_fit_are_not_tried(
    launcher: Launcher, tiny_checkpoint: Path, folder: Path
) -> None:
    """Another process has most of the card. A layout needs 2 MiB less than its peak at least."""
    write_plan(
        folder,
        model__source=str(tiny_checkpoint),
        batch=WHOLE_BATCH,
        training={"max_steps": 1},
        fallbacks=[{**fallback(8, 2), "peak_allocated_bytes": 2**30}, fallback(8, 2)],
    )
    launcher.fault = "shared@forward:1+8"
    done = launcher.run(folder)
    assert done.code == 0, done.errors
    assert [each["micro_batch_size"] for each in done.attempts] == [16, 8]
    assert launcher.said[0] == (
        "skipped: micro-batches of 8 x 2, no activation checkpointing, which needs 1.00 GiB at "
        "least; the rank could have 0.01 GiB of its GPU"
    )


def test_out_of_memory_with_nothing_leaner(
    launcher: Launcher, tiny_checkpoint: Path, folder: Path
) -> None:
    write_plan(folder, model__source=str(tiny_checkpoint), fallbacks=[])
    launcher.fault = "memory@backward:1"
    done = launcher.run(folder)
    assert done.code == 1
    assert done.errors.startswith(
        "error: GPU memory ran out on rank 0 (backward of step 1), and the plan has no leaner"
    )
    assert len(done.errors.splitlines()) == 1


def test_a_loss_that_is_no_number(launcher: Launcher, tiny_checkpoint: Path, folder: Path) -> None:
    """The step is named, though nothing was logged there; no checkpoint is made of it."""
    write_plan(
        folder,
        **full(
            model__source=str(tiny_checkpoint),
            optimizer__learning_rate=1e30,
            schedule={"kind": "constant", "warmup_ratio": 0.0},
            training={"max_steps": 50, "logging_steps": 25, "save_steps": 5},
        ),
    )
    done = launcher.run(folder)
    assert done.code == 1
    assert done.errors.startswith("error: rank 0: the loss is not finite at step 2. Lower opt")
    assert last_whole(done.run / "checkpoints")[0] is None


def test_a_full_disk_keeps_the_last_checkpoint(
    launcher: Launcher, tiny_checkpoint: Path, folder: Path
) -> None:
    training = {"max_steps": 6, "save_steps": 2}
    write_plan(folder, model__source=str(tiny_checkpoint), training=training)
    launcher.fault = "disk@save:4"
    done = launcher.run(folder)
    assert done.code == 1
    assert done.errors.startswith("error: rank 0: the checkpoint of step 4 could not be written (")
    assert done.errors.endswith("step 2 is saved: --resume continues")
    assert len(done.errors.splitlines()) == 1
    launcher.fault = ""
    assert resume(launcher, folder).code == 0


def test_a_rank_that_hangs_is_named(
    launcher: Launcher, tiny_checkpoint: Path, folder: Path
) -> None:
    write_plan(
        folder,
        model__source=str(tiny_checkpoint),
        parallel=parallel("ddp"),
        training={"max_steps": 4, "hang_limit_s": 15},
        **TWO_RANKS,
    )
    launcher.fault = "hang@optimizer_step:2/1"
    began = time.monotonic()
    done = launcher.run(folder)
    assert done.code == 1
    lines = done.errors.splitlines()
    assert lines[0] == (
        "error: no progress for 15 s: rank 0 (step end of step 2) is waiting for "
        "rank 1 (optimizer step of step 2). "
        "Its stack, innermost first, from run/logs/rank-1.log:"
    )
    assert lines[1].endswith("in _meet")
    assert time.monotonic() - began < 80


def test_what_was_set_up_is_not_what_was_planned(
    launcher: Launcher, tiny_checkpoint: Path, folder: Path
) -> None:
    write_plan(folder, model__source=str(tiny_checkpoint), model__num_params=5)
    done = launcher.run(folder)
    assert done.code == 1
    assert done.errors == (
        "error: rank 0: the setup is not the planned one: parameters: planned 5, found 107072"
    )
    assert not (done.run / "report.json").exists()


def test_something_else_shows_the_end_of_the_log(
    launcher: Launcher, tiny_checkpoint: Path, folder: Path
) -> None:
    write_plan(folder, model__source=str(tiny_checkpoint))
    launcher.fault = "error@load:0"
    done = launcher.run(folder)
    assert done.code == 1
    lines = done.errors.splitlines()
    assert lines[0].startswith("error: training failed: rank 0 (load): something else. The end of")
    assert lines[-1].endswith("RuntimeError: something else")


@pytest.mark.parametrize(
    ("fault", "end"),
    [
        ("killsaving@save:2/1", "was killed by signal 9: the system ran out of memory?"),
        ("exit@save:2/1", "ended with exit code 3"),
    ],
)
def test_a_rank_that_dies_is_named_and_not_those_that_miss_it(
    fault: str, end: str, launcher: Launcher, tiny_checkpoint: Path, folder: Path
) -> None:
    """Without a word, amid a checkpoint that the other rank then cannot finish either."""
    write_plan(
        folder,
        model__source=str(tiny_checkpoint),
        parallel=parallel("ddp"),
        training={"max_steps": 4, "save_steps": 2},
        **TWO_RANKS,
    )
    launcher.fault = fault
    done = launcher.run(folder)
    assert done.code == 1
    assert done.errors.startswith(
        f"error: training failed: rank 1 (save of step 2) {end}. The end of run/logs/rank-1.log:"
    )


def test_a_crash_is_told_with_the_place_in_the_code(
    launcher: Launcher, tiny_checkpoint: Path, folder: Path
) -> None:
    write_plan(folder, model__source=str(tiny_checkpoint))
    launcher.fault = "crash@load:0"
    first, innermost, *rest = launcher.run(folder).errors.splitlines()
    assert first == (
        "error: training failed: rank 0 (load) was killed by signal 11. "
        "Its stack, innermost first, from run/logs/rank-0.log:"
    )
    assert innermost.endswith("in _crash")
    assert all(line.startswith("  File ") for line in rest)
