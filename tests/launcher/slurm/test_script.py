"""The batch script under a real Slurm, with a stand-in for launch: what ends it, and what then."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.engines.engine import EngineError, JobStatus
from launcher.engines.job import Job, Rendered
from launcher.engines.slurm import ENGINE
from launcher.engines.submission import cancel, follow, run_job, write_files
from launcher.run.run_directory import RunDirectory
from planner.base.errors import InvalidRequestError
from tests.launcher.plans import nodes, plan
from tests.launcher.slurm.cluster import ADDRESS, Cluster, preempt

WAIT_SECONDS = 40.0

LAUNCH = """\
#!/bin/bash
# Until it is stopped, which takes it a while; then, from the checkpoint on, to the end.
while [[ $1 != --output ]]; do shift; done
echo "$(hostname) $@"
if [[ -e $2/checkpoints ]]; then echo finished; exit 0; fi
[[ -e $2/fails ]] && exit 7
stop() { sleep 1; mkdir -p "$2/checkpoints/checkpoint-5"
  touch "$2/checkpoints/checkpoint-5/contents.json"; echo saved; exit 143; }
trap 'stop "$@"' TERM
touch "$2/trains"
while :; do sleep 0.1; done
"""


def job(folder: Path, num_nodes: int = 1, name: str = "run", /, **settings: str) -> Job:
    stand_in = folder / "launch"
    stand_in.write_text(LAUNCH)
    stand_in.chmod(0o755)
    return Job(
        plan=plan(**nodes(num_nodes), data__source="demo"),
        directory=folder / name,
        python=str(stand_in),
        working_directory=folder,
        settings=settings,
    )


def submit(job: Job) -> str:
    rendered = ENGINE.render(job)
    write_files(job, rendered)
    assert ENGINE.problems(rendered, job.folder) == []
    return ENGINE.submit(rendered, job.folder)


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


def training(job: Job) -> str:
    """A job that has begun; its name."""
    job_id = submit(job)
    wait_for((job.directory / "trains").exists)
    return job_id


def ended(job_id: str) -> JobStatus:
    def has_ended() -> bool:
        return ENGINE.status(job_id).state in ("finished", "failed", "cancelled")

    wait_for(has_ended)
    return ENGINE.status(job_id)


def printed(job: Job, job_id: str) -> list[str]:
    return ENGINE.log(job_id, job.folder, 0)[0].splitlines()


def saved(job: Job, job_id: str) -> bool:
    return "saved" in printed(job, job_id)


@pytest.mark.usefixtures("cluster")
def test_every_node_gets_the_same_command(tmp_path: Path) -> None:
    two = job(tmp_path, 2, "it's 50% {of} two")
    (two.directory / "checkpoints").mkdir(parents=True)
    job_id = submit(two)
    assert ended(job_id) == JobStatus(state="finished", exit_code=0)
    lines = [line for line in printed(two, job_id) if line != "finished"]
    assert len({line.partition(" ")[0] for line in lines}) == 2
    port = 15000 + 16 * (int(job_id) % 1024)
    assert {line.partition(" ")[2] for line in lines} == {
        f"--output {two.directory} --max-restarts 0 --begin-or-resume "
        f"--rdzv-endpoint {ADDRESS.format(1)}:{port}"
    }


@pytest.mark.usefixtures("cluster")
def test_the_exit_code_is_the_trainings(tmp_path: Path) -> None:
    one = job(tmp_path)
    one.directory.mkdir()
    (one.directory / "fails").touch()
    assert ended(submit(one)) == JobStatus(
        state="failed", detail="FAILED, NonZeroExitCode", exit_code=7
    )


@pytest.mark.usefixtures("cluster")
def test_cancelled_with_a_checkpoint(tmp_path: Path) -> None:
    one = job(tmp_path)
    job_id = training(one)
    ENGINE.cancel(job_id)
    look = ended(job_id)
    assert (look.state, look.exit_code) == ("cancelled", 143)
    assert saved(one, job_id)


def test_cancelled_by_scancel(tmp_path: Path, cluster: Cluster) -> None:
    """Which leaves KillWait, and is no reason to begin again."""
    one = job(tmp_path)
    job_id = training(one)
    cluster.ask("scancel", job_id)
    assert ended(job_id).state == "cancelled"
    assert saved(one, job_id)


@pytest.mark.usefixtures("cluster")
def test_cancelled_while_it_waits(tmp_path: Path) -> None:
    first = job(tmp_path, 2, cpus_per_task="4")
    waiting = training(first)
    second = job(tmp_path, 2, "second", cpus_per_task="4")
    job_id = submit(second)
    assert ENGINE.status(job_id).state == "waiting"
    ENGINE.cancel(job_id)
    assert ended(job_id).state == "cancelled"
    ENGINE.cancel(waiting)
    ended(waiting)
    assert not (second.directory / "trains").exists()


def test_at_its_time_limit(tmp_path: Path, cluster: Cluster) -> None:
    """The signal that sbatch was asked for, sent by hand."""
    one = job(tmp_path)
    job_id = training(one)
    cluster.ask("scancel", "--batch", "--signal=USR1", job_id)
    look = ended(job_id)
    assert look == JobStatus(state="finished", detail="restarted once", exit_code=0)
    lines = printed(one, job_id)
    assert f"job {job_id}: at its time limit; it waits for its next turn" in lines
    assert lines[-1] == "finished"


def test_a_time_limit_before_anything_is_saved(tmp_path: Path, cluster: Cluster) -> None:
    """To begin again would be for nothing, and for ever."""
    one = job(tmp_path)
    job_id = training(one)
    (tmp_path / "run/checkpoints").write_text("in the way")
    cluster.ask("scancel", "--batch", "--signal=USR1", job_id)
    assert ended(job_id).state == "failed"
    assert "time limit came before a checkpoint" in printed(one, job_id)[-1]


def test_preempted_without_a_grace_time(tmp_path: Path, cluster: Cluster) -> None:
    """By a job that takes both nodes. tests/launcher/slurm/test_training.py has it with one."""
    one = job(tmp_path, 2, partition="hasty")
    job_id = training(one)
    preempt(cluster)
    look = ended(job_id)
    assert look == JobStatus(state="finished", detail="restarted once", exit_code=0)
    assert saved(one, job_id)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("num_nodes", "settings", "said"),
    [
        (1, {"partition": "lwo"}, "no partition is named 'lwo'. Did you mean 'low'?"),
        (3, {}, "Requested node configuration is not available"),
        (1, {"mem": "100G"}, "Requested node configuration is not available"),
        (1, {"gres": "tape:1"}, "Invalid generic resource (gres) specification"),
    ],
)
def test_what_the_cluster_cannot_do(
    num_nodes: int, settings: dict[str, str], said: str, tmp_path: Path
) -> None:
    asked = job(tmp_path, num_nodes, **settings)
    rendered: Rendered = ENGINE.render(asked)
    write_files(asked, rendered)
    assert said in "; ".join(ENGINE.problems(rendered, asked.folder))


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("settings", [{}, {"gres": "gpu:h100:2"}])
def test_gpus(settings: dict[str, str], tmp_path: Path) -> None:
    asked = replace(
        job(tmp_path, 1, "run", **settings), plan=plan(**nodes(2, 2), hardware__device="cuda")
    )
    (asked.directory / "checkpoints").mkdir(parents=True)
    assert ended(submit(asked)).state == "finished"


@pytest.mark.usefixtures("cluster")
def test_one_job_at_a_time_in_a_run_directory(tmp_path: Path) -> None:
    one = job(tmp_path)
    assert run_job("slurm", one, dry_run=False, detach=True) == 0
    wait_for((one.directory / "trains").exists)
    with pytest.raises(InvalidRequestError, match="has a job that is running"):
        run_job("slurm", one, dry_run=False, detach=True)
    run = RunDirectory(one.directory)
    cancel(run)
    assert follow(run) == 143
    with pytest.raises(EngineError, match="has already ended: cancelled"):
        cancel(run)
