"""Ranks that do not move: which of them the others wait for."""

import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from launcher.faults.hang_watch import HangWatch
from launcher.faults.rank_stages import (
    RankPosition,
    Stage,
    Stages,
    began_at,
    positions_here,
    rank_positions,
    stopped_by_signal,
)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def watch_for(
    folder: Path, seconds: float, *, limit_s: float, node: str | None = None
) -> HangWatch:
    """One that has looked at ranks which have not moved for so long."""
    clock = Clock()
    watch = HangWatch(folder, limit_s=limit_s, node=node, clock=clock)
    watch.look()
    clock.now += seconds
    watch.look()
    return watch


def write(
    folder: Path,
    rank: int,
    stage: Stage,
    passed: int,
    process: int,
    *,
    node: str | None = None,
    entered_at: float | None = None,
    began: int | None = None,
) -> None:
    position = RankPosition(
        rank=rank,
        process=process,
        node=node,
        stage=stage,
        step=3,
        passed=passed,
        entered_at=time.time() if entered_at is None else entered_at,
        began=began_at(Path(f"/proc/{process}")) if began is None else began,
    )
    (folder / f"rank-{rank}.json").write_text(json.dumps(asdict(position)), encoding="utf-8")


@pytest.fixture
def sleepers() -> "list[subprocess.Popen[bytes]]":
    return [
        subprocess.Popen(
            ["sleep", "60"],
            preexec_fn=lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
        )
        for _ in range(2)
    ]


def test_a_rank_says_where_it_is(tmp_path: Path) -> None:
    stages = Stages(tmp_path / "rank-1.json", 1)
    stages.enter("forward", 2)
    stages.enter("optimizer_step", 2)
    (position,) = rank_positions(tmp_path)
    assert str(position) == "rank 1 (optimizer step of step 2)"
    assert (position.passed, position.process) == (2, os.getpid())


def test_a_run_that_moves_is_left_alone(tmp_path: Path) -> None:
    """Whether any rank does: another node's clock may be wrong by years."""
    write(tmp_path, 0, "forward", 1, process=os.getpid())
    write(tmp_path, 1, "forward", 1, process=1, node="10.0.0.2", entered_at=0.0)
    clock = Clock()
    watch = HangWatch(tmp_path, limit_s=60, clock=clock)
    for passed in range(2, 5):
        watch.look()
        clock.now += 50
        write(tmp_path, 1, "forward", passed, process=1, node="10.0.0.2", entered_at=0.0)
    watch.look()
    assert not watch.hung


def test_before_any_rank_has_spoken_nothing_is_silent(tmp_path: Path) -> None:
    assert not watch_for(tmp_path, 9, limit_s=0).hung


def test_a_process_id_that_was_given_again_is_no_rank(
    tmp_path: Path, sleepers: "list[subprocess.Popen[bytes]]"
) -> None:
    """Nor is one of another node: while torch elastic waits for a lost node no rank runs here."""
    write(tmp_path, 0, "backward", 8, process=sleepers[0].pid, began=1)
    write(tmp_path, 1, "backward", 8, process=sleepers[1].pid, node="10.0.0.2")
    assert not watch_for(tmp_path, 9, limit_s=2).hung
    assert positions_here(rank_positions(tmp_path), None) == []
    assert [position.rank for position in positions_here(rank_positions(tmp_path), "10.0.0.2")] == [
        1
    ]
    for sleeper in sleepers:
        assert sleeper.poll() is None
        sleeper.kill()
        sleeper.wait()


def test_a_hung_run_is_noticed_though_the_wall_clock_was_set(
    tmp_path: Path, sleepers: "list[subprocess.Popen[bytes]]"
) -> None:
    """Forward or back by an hour since the ranks wrote where they are."""
    for rank, (sleeper, hour) in enumerate(zip(sleepers, (-3600, 3600), strict=True)):
        at = time.time() + hour
        write(tmp_path, rank, "backward", 8, process=sleeper.pid, entered_at=at)
    assert watch_for(tmp_path, 9, limit_s=2).hung
    assert [sleeper.wait(10) for sleeper in sleepers] == [-signal.SIGKILL] * 2


def test_the_one_behind_is_named_and_all_are_ended(
    tmp_path: Path, sleepers: "list[subprocess.Popen[bytes]]"
) -> None:
    write(tmp_path, 0, "backward", 8, process=sleepers[0].pid)
    write(tmp_path, 1, "forward", 7, process=sleepers[1].pid)
    watch = watch_for(tmp_path, 9, limit_s=2)
    assert watch.describe() == (
        "no progress for 2 s: rank 0 (backward of step 3) is waiting for rank 1 (forward of step 3)"
    )
    assert [sleeper.wait(10) for sleeper in sleepers] == [-signal.SIGKILL] * 2


def test_a_process_that_was_stopped_is_named_though_none_is_behind(
    tmp_path: Path, sleepers: "list[subprocess.Popen[bytes]]"
) -> None:
    for rank, sleeper in enumerate(sleepers):
        write(tmp_path, rank, "backward", 8, process=sleeper.pid)
    sleepers[0].send_signal(signal.SIGSTOP)
    while not stopped_by_signal(rank_positions(tmp_path)):
        time.sleep(0.01)
    watch = watch_for(tmp_path, 9, limit_s=2)
    assert watch.describe() == (
        "no progress for 2 s: rank 1 (backward of step 3) is waiting for "
        "rank 0 (backward of step 3), stopped by a signal"
    )
    assert [sleeper.wait(10) for sleeper in sleepers] == [-signal.SIGKILL] * 2


def test_where_no_rank_is_behind_all_are_named(
    tmp_path: Path, sleepers: "list[subprocess.Popen[bytes]]"
) -> None:
    for rank, sleeper in enumerate(sleepers):
        write(tmp_path, rank, "backward", 8, process=sleeper.pid)
    watch = watch_for(tmp_path, 9, limit_s=2)
    assert watch.describe() == (
        "no progress for 2 s: no rank is behind the others: "
        "rank 0 (backward of step 3), rank 1 (backward of step 3)"
    )
    assert [sleeper.wait(10) for sleeper in sleepers] == [-signal.SIGKILL] * 2


def test_a_position_that_is_being_written_is_left_to_the_next_look(tmp_path: Path) -> None:
    (tmp_path / "rank-0.json").write_text('{"rank": 0, "beggan": 1}', encoding="utf-8")
    (tmp_path / "rank-1.json").write_text('{"rank": 1, "sta', encoding="utf-8")
    assert rank_positions(tmp_path) == []
