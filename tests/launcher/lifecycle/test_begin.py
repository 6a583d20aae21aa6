"""How a run begins: anew, or where it was."""

from pathlib import Path

import pytest

from launcher.lifecycle.begin import StartOptions, train
from launcher.run.run_directory import RunDirectory, create
from planner.base.errors import InvalidRequestError
from tests.launcher.plans import plan

RESUME = StartOptions(resume=True)
AGAIN = StartOptions(begin_or_resume=True)


def test_a_job_that_is_started_again_goes_on_where_it_has_begun(tmp_path: Path) -> None:
    run = create(tmp_path, needed_bytes=0)
    assert not AGAIN.resumes(run)
    run.plan.write_text("model: tiny", encoding="utf-8")
    assert AGAIN.resumes(run)
    assert StartOptions(resume=True).resumes(RunDirectory(tmp_path / "none"))
    assert not StartOptions().resumes(run)


def test_a_job_that_is_started_again_when_it_has_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person who launches into it is refused."""
    run = create(tmp_path, needed_bytes=0)
    run.report.write_text("{}", encoding="utf-8")
    assert train(plan(), tmp_path, AGAIN) == 0
    assert capsys.readouterr().err == f"{tmp_path} already holds the finished run\n"
    (tmp_path / "data.jsonl").touch()
    here = plan(data__source=str(tmp_path / "data.jsonl"))
    with pytest.raises(InvalidRequestError, match="already holds a finished run"):
        train(here, tmp_path, StartOptions())


def test_nothing_is_made_for_a_run_that_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="has no run to resume"):
        train(plan(), tmp_path / "run", RESUME)
    assert list(tmp_path.iterdir()) == []
