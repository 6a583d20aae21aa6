"""A job's way through any engine: what is refused before one is asked."""

from dataclasses import replace
from pathlib import Path

import pytest

from launcher.engines.engine import ELSEWHERE, Engine, EngineName, Foreground, engine_named
from launcher.engines.submission import require_engine, run_job, settings_of, submitted
from launcher.run.run_directory import RunDirectory
from planner.base.errors import InvalidRequestError
from tests.launcher.engines.jobs import job
from tests.launcher.plans import plan


def test_settings() -> None:
    assert settings_of(["a=b", "c=d=e"]) == {"a": "b", "c": "d=e"}
    with pytest.raises(InvalidRequestError, match="--with a: write KEY=VALUE"):
        settings_of(["a"])
    with pytest.raises(InvalidRequestError, match="--with a is set twice"):
        settings_of(["a=b", "a=c"])


def test_options_of_engines_need_one() -> None:
    require_engine({"--with": [], "--detach": False})
    with pytest.raises(InvalidRequestError, match="--detach needs --on hosts"):
        require_engine({"--with": [], "--detach": True})


@pytest.mark.parametrize("name", ELSEWHERE)
def test_every_engine_takes_jobs_or_runs_them(name: EngineName) -> None:
    engine = engine_named(name)
    assert isinstance(engine, Engine) != isinstance(engine, Foreground)


def test_hosts_are_not_left_alone() -> None:
    with pytest.raises(InvalidRequestError, match="no jobs to detach from: leave --detach out"):
        run_job("hosts", job(plan(), hosts="a"), dry_run=False, detach=True)


def test_wrong_settings_leave_no_run_directory(tmp_path: Path) -> None:
    here = replace(job(plan(), host="a"), directory=tmp_path / "run")
    with pytest.raises(InvalidRequestError, match="Did you mean 'hosts'"):
        run_job("hosts", here, dry_run=False, detach=False)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_not_submitted(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="was not submitted to an engine"):
        submitted(RunDirectory(tmp_path))
