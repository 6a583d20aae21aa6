"""Settings of the command line go through the plan's own strict schema."""

from pathlib import Path

import pytest

from launcher.run.read_plan import plan_text, read_plan
from planner.base.errors import InvalidFileError, InvalidRequestError
from planner.base.strict_yaml import parse_spec
from planner.plan.schema import Plan
from tests.launcher import plans


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(plans.plan_text(training={"epochs": 2.0}), encoding="utf-8")
    return path


def test_without_changes_it_is_the_file(plan_file: Path) -> None:
    assert read_plan(plan_file) == plans.plan(training={"epochs": 2.0})


def test_max_steps_unsets_epochs(plan_file: Path) -> None:
    training = read_plan(plan_file, settings=["training.max_steps=12"]).training
    assert (training.max_steps, training.epochs) == (12, None)


def test_epochs_unset_max_steps(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(plans.plan_text(), encoding="utf-8")
    training = read_plan(path, settings=["training.epochs=0.5"]).training
    assert (training.max_steps, training.epochs) == (None, 0.5)


def test_numbers_as_people_write_them(plan_file: Path) -> None:
    optimizer = read_plan(plan_file, settings=["optimizer.learning_rate=2e-5"]).optimizer
    assert optimizer.learning_rate == 2e-5


def test_data_and_output(plan_file: Path) -> None:
    plan = read_plan(plan_file, data="mine.jsonl", output=Path("runs/other"))
    assert (plan.data.source, plan.output.directory) == ("mine.jsonl", "runs/other")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "training.max_step=12",
            "--set training.max_step=12: unknown key 'training.max_step'. "
            "Did you mean 'max_steps'?",
        ),
        (
            "training.max_steps=many",
            "--set training.max_steps=many: training.max_steps: "
            "it should be a whole number or null, not the text 'many'",
        ),
        (
            "batch.micro_batch_size=3",
            "--set batch.micro_batch_size=3: global_batch_size (4) must be micro_batch_size * "
            "gradient_accumulation_steps * world_size (3 * 2 * 1 = 6)",
        ),
        ("training", "--set training: write KEY=VALUE, for example --set training.max_steps=12"),
    ],
)
def test_a_wrong_setting_is_named(plan_file: Path, setting: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        read_plan(plan_file, settings=[setting])
    assert str(error.value) == message


def test_a_wrong_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(plans.plan_text().replace("method: lora", "metod: lora"), encoding="utf-8")
    with pytest.raises(InvalidFileError, match=r"plan.yaml:14: unknown key 'metod'. Did you mean"):
        read_plan(path, settings=["training.max_steps=1"])


def test_a_written_plan_reads_as_the_same_one() -> None:
    plan = plans.plan(adapter__target_modules=["q_proj", "v_proj"])
    assert parse_spec(Plan, plan_text(plan), Path("plan.yaml")) == plan
