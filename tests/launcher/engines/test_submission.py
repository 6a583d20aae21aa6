"""A job's way through any engine: what is refused before one is asked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.engines.engine import ELSEWHERE, Engine, EngineName, Foreground, engine_named
from launcher.engines.job import node_command
from launcher.engines.submission import (
    require_engine,
    require_runnable,
    run_job,
    settings_of,
    submitted,
)
from launcher.lifecycle.begin import StartOptions
from launcher.run.checkpoints import checkpoint_folder, seal
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


NO_DATA = {"data": {"source": None}}
GONE = {"data": {"source": "gone.jsonl"}}
ON_THE_NODES = {"data": {"source": "/volume/data.jsonl"}}
LIKE_HERE: dict[EngineName, dict[str, str]] = {"hosts": {"hosts": "a"}, "slurm": {}}
ELSEWHERE_SET: dict[EngineName, dict[str, str]] = {
    "hosts": {"hosts": "a", "folder": "/there"},
    "skypilot": {"shared": "/there"},
    "kubeflow": {},
}


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize(
    ("changes", "message"),
    [(NO_DATA, "the plan names no data"), (GONE, "data file gone.jsonl does not exist")],
)
def test_data_that_the_nodes_would_refuse(
    name: EngineName, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    settings = LIKE_HERE.get(name) or ELSEWHERE_SET.get(name, {})
    here = replace(job(plan(**changes), **settings), directory=tmp_path / "run")
    with pytest.raises(InvalidRequestError, match=message):
        run_job(name, here, dry_run=False, detach=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ELSEWHERE_SET)
def test_a_path_on_the_nodes(name: EngineName, tmp_path: Path) -> None:
    there = replace(job(plan(**ON_THE_NODES), **ELSEWHERE_SET[name]), directory=tmp_path / "run")
    like_here = engine_named(name).is_like_here(there)
    assert require_runnable(there, RunDirectory(there.directory), like_here=like_here) == 0


@pytest.mark.parametrize("name", LIKE_HERE)
def test_what_the_nodes_would_refuse_to_resume(name: EngineName, tmp_path: Path) -> None:
    again = replace(
        job(plan(), **LIKE_HERE[name]), directory=tmp_path / "run", start=StartOptions(resume=True)
    )
    with pytest.raises(InvalidRequestError, match="has no run to resume"):
        run_job(name, again, dry_run=False, detach=False)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_the_nodes_lack(tmp_path: Path) -> None:
    tracked = plan(data__source="demo", training={"max_steps": 4, "report_to": ["clearml"]})
    here = replace(job(tracked), directory=tmp_path / "run")
    with pytest.raises(InvalidRequestError, match=r"not installed here \(clearml\): pip install"):
        run_job("slurm", here, dry_run=False, detach=False)
    assert list(tmp_path.iterdir()) == []


def test_what_the_nodes_show_is_passed_on() -> None:
    shows = replace(job(plan()), start=StartOptions(shown_samples=3))
    assert node_command(shows, plan_file="p", directory="d")[-2:] == ["--show-sample", "3"]
    assert "--show-sample" not in node_command(job(plan()), plan_file="p", directory="d")


def test_a_run_that_has_begun_is_resumed_by_a_second_job(tmp_path: Path) -> None:
    """Submitted again as it was, by a script that does not know whether it ran before."""
    checkpoint = checkpoint_folder(RunDirectory(tmp_path).checkpoints, 7)
    checkpoint.mkdir(parents=True)
    seal(checkpoint, world_size=1, strategy="single")
    first = replace(job(plan(**ON_THE_NODES)), directory=tmp_path)
    again = replace(first, start=StartOptions(begin_or_resume=True))
    with pytest.raises(InvalidRequestError, match="--resume"):
        require_runnable(first, RunDirectory(tmp_path), like_here=False)
    assert require_runnable(again, RunDirectory(tmp_path), like_here=False) == 0


def test_nodes_leave_the_record_that_is_asked_for() -> None:
    records = replace(job(plan()), start=StartOptions(record=True))
    assert "--record" in node_command(records, plan_file="p", directory="d")
    assert "--record" not in node_command(job(plan()), plan_file="p", directory="d")
