"""What --resume accepts, and what it refuses with a way out."""

from pathlib import Path
from typing import Any

import pytest

from launcher.data.inputs import Inputs, write_inputs
from launcher.data.sources import find_sources
from launcher.lifecycle.fallbacks import fallback_plans
from launcher.lifecycle.resume import check_nothing_to_resume, interrupted_plan, saved_state
from launcher.run.checkpoints import checkpoint_folder, seal
from launcher.run.read_plan import plan_text
from launcher.run.run_directory import RunDirectory
from planner.base.errors import InvalidRequestError
from planner.plan.schema import Plan
from tests.launcher.launching import asked, write_records
from tests.launcher.plans import parallel, plan

LEANER: dict[str, Any] = {
    "micro_batch_size": 1,
    "gradient_accumulation_steps": 4,
    "activation_checkpointing": True,
    "strategy": "single",
    "peak_allocated_bytes": 30 * 2**20,
}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def running(run: RunDirectory, plan: Plan) -> None:
    run.plan.write_text(plan_text(plan), encoding="utf-8")


def saved(run: RunDirectory, step: int, *, strategy: str = "single") -> None:
    checkpoint = checkpoint_folder(run.checkpoints, step)
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    seal(checkpoint, world_size=1, strategy=strategy)


def refusal(given: Plan, run: RunDirectory) -> str:
    with pytest.raises(InvalidRequestError) as error:
        interrupted_plan(given, run)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_same_plan_goes_on(run: RunDirectory) -> None:
    running(run, plan())
    saved(run, 3)
    assert interrupted_plan(plan(), run) == plan()
    found, _ = saved_state(plan(), run)
    assert found is not None
    assert found.step == 3


def test_the_layout_that_memory_forced_goes_on(run: RunDirectory) -> None:
    given = plan(fallbacks=[LEANER])
    (forced,) = fallback_plans(given)
    running(run, forced)
    assert interrupted_plan(given, run).batch.micro_batch_size == 1


def test_a_plan_that_predicts_something_else_trains_alike(run: RunDirectory) -> None:
    running(run, plan(prediction__high_bytes=1, hardware__budget_bytes=2))
    assert interrupted_plan(plan(), run).prediction.high_bytes == 1


def test_what_does_not_affect_the_training_may_change(run: RunDirectory) -> None:
    running(run, plan(fallbacks=[LEANER]))
    written = {"save_steps": 7, "logging_steps": 3, "keep_checkpoints": 1, "hang_limit_s": 60}
    given = plan(
        output__directory="/somewhere/else",
        training={"max_steps": 4, **written, "report_to": ["tensorboard"]},
    )
    resumed = interrupted_plan(given, run)
    assert (resumed.training, resumed.output) == (given.training, given.output)
    assert resumed.fallbacks == plan(fallbacks=[LEANER]).fallbacks


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data of a run, as they lay when it began."""
    path = tmp_path / "data.jsonl"
    write_records(path, [asked("Who?", "Ada")])
    return path


def begun_with(run: RunDirectory, data: Path) -> None:
    running(run, plan(data__source=str(data)))
    (source,) = find_sources(plan(data__source=str(data)).data)
    inputs = Inputs(
        **dict.fromkeys(("checkpoint", "base_name", "data_folder", "data_key"), ""),
        file_digests=[source.digests],
        data={},
    )
    write_inputs(run, inputs)


def test_data_may_be_moved_and_renamed(run: RunDirectory, data: Path) -> None:
    begun_with(run, data)
    moved = str(data.rename(data.with_name("moved.jsonl")))
    assert interrupted_plan(plan(data__source=moved), run).data.source == moved
    listed = plan(data={"sources": [{"source": moved}]})
    assert interrupted_plan(listed, run).data == listed.data


def test_other_data_are_refused(run: RunDirectory, data: Path) -> None:
    begun_with(run, data)
    other = data.with_name("other.jsonl")
    write_records(other, [asked("Who?", "Bob")])
    message = refusal(plan(data__source=str(other)), run)
    assert f"was begun with other data than {other}, and resuming would mix the two" in message
    twice = plan(data={"sources": [{"source": str(data), "weight": 2.0}]})
    assert "sources was" in refusal(twice, run)


def test_another_plan_is_refused_with_the_difference(run: RunDirectory) -> None:
    running(run, plan())
    message = refusal(plan(optimizer__learning_rate=0.5, training={"max_steps": 9}), run)
    assert "optimizer.learning_rate was 0.002 and is 0.5" in message
    assert "training.max_steps was 4 and is 9" in message
    assert message.endswith("or start another run with --output DIR")


def test_another_number_of_ranks_is_refused(run: RunDirectory) -> None:
    running(run, plan(parallel=parallel("zero2"), batch__global_batch_size=8))
    message = refusal(plan(), run)
    assert "was run by 2 ranks and the plan is for 1 rank: its checkpoints have a part" in message
    assert "Resume with 2 ranks" in message


def test_another_strategy_is_refused(run: RunDirectory) -> None:
    saved(run, 3, strategy="ddp")
    with pytest.raises(InvalidRequestError, match="was saved under ddp and the plan is for single"):
        saved_state(plan(), run)


def test_nothing_to_go_on_with(run: RunDirectory) -> None:
    assert "has no run to resume. Leave --resume out" in refusal(plan(), run)


def test_a_run_that_can_go_on_is_not_begun_anew(run: RunDirectory) -> None:
    check_nothing_to_resume(run)
    saved(run, 7)
    with pytest.raises(InvalidRequestError, match=r"saved at step 7\. Continue it with --resume"):
        check_nothing_to_resume(run)
