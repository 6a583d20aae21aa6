"""Where a finished run is found, and what a person is told who names something else."""

from pathlib import Path

import pytest

from launcher.run.finished_run import finished_run
from planner.base.errors import InvalidRequestError
from tests.launcher.plans import plan_text


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "adapter").mkdir(parents=True)
    (run / "plan.yaml").write_text(plan_text(), encoding="utf-8")
    (run / "report.json").write_text("{}", encoding="utf-8")
    return run


def test_a_plan_stands_for_its_run(run: Path, tmp_path: Path) -> None:
    plan_file = tmp_path / "plan.yaml"
    plan_file.write_text(plan_text(output__directory=str(run)), encoding="utf-8")
    assert finished_run(plan_file) == finished_run(run)


def test_a_part_of_a_run_names_the_run(run: Path) -> None:
    with pytest.raises(InvalidRequestError, match=f"Name the run that it is a part of: {run}$"):
        finished_run(run / "adapter")


def test_a_run_that_has_not_ended(run: Path) -> None:
    (run / "report.json").unlink()
    remedy = f"resume it with launch {run}/plan.yaml --output {run} --resume$"
    with pytest.raises(InvalidRequestError, match=f"has not ended: {remedy}"):
        finished_run(run)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"holds no finished run. Launch its plan first"):
        finished_run(tmp_path)
