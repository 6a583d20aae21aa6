"""Ranks that do not move: which of them the others wait for."""

import json
import os
import signal
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from launcher.stages import Place, Stage, Stages, frozen, places, silent_for_s
from launcher.watch import Watch


def write(folder: Path, rank: int, stage: Stage, passed: int, process: int) -> None:
    place = Place(
        rank=rank, process=process, stage=stage, step=3, passed=passed, entered_at=time.time() - 9
    )
    (folder / f"rank-{rank}.json").write_text(json.dumps(asdict(place)), encoding="utf-8")


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
    (place,) = places(tmp_path)
    assert str(place) == "rank 1 (optimizer step of step 2)"
    assert (place.passed, place.process) == (2, os.getpid())
    assert silent_for_s([place], place.entered_at + 5) == 5


def test_a_run_that_moves_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, 0, "forward", 1, process=os.getpid())
    watch = Watch(tmp_path, limit_s=60)
    watch.look()
    assert not watch.hung


def test_before_any_rank_has_spoken_nothing_is_silent(tmp_path: Path) -> None:
    watch = Watch(tmp_path, limit_s=0)
    watch.look()
    assert not watch.hung


def test_the_one_behind_is_named_and_all_are_ended(
    tmp_path: Path, sleepers: "list[subprocess.Popen[bytes]]"
) -> None:
    write(tmp_path, 0, "backward", 8, process=sleepers[0].pid)
    write(tmp_path, 1, "forward", 7, process=sleepers[1].pid)
    watch = Watch(tmp_path, limit_s=2)
    watch.look()
    assert watch.verdict() == (
        "nothing has moved for 2 s: rank 1 (forward of step 3) is behind, "
        "and rank 0 (backward of step 3) waits for it"
    )
    assert [sleeper.wait(10) for sleeper in sleepers] == [-signal.SIGKILL] * 2


def test_a_process_that_was_stopped_is_named_though_none_is_behind(
    tmp_path: Path, sleepers: "list[subprocess.Popen[bytes]]"
) -> None:
    for rank, sleeper in enumerate(sleepers):
        write(tmp_path, rank, "backward", 8, process=sleeper.pid)
    sleepers[0].send_signal(signal.SIGSTOP)
    while not frozen(places(tmp_path)):
        time.sleep(0.01)
    watch = Watch(tmp_path, limit_s=2)
    watch.look()
    assert watch.verdict() == (
        "nothing has moved for 2 s: rank 0 (backward of step 3), whose process was stopped by a "
        "signal, and rank 1 (backward of step 3) waits for it"
    )
    assert [sleeper.wait(10) for sleeper in sleepers] == [-signal.SIGKILL] * 2


def test_where_no_rank_is_behind_all_are_named(tmp_path: Path) -> None:
    for rank in (0, 1):
        write(tmp_path, rank, "backward", 8, process=2**22 + 1)  # above the largest process id
    watch = Watch(tmp_path, limit_s=2)
    watch.look()
    assert watch.verdict().endswith(
        "rank 0 (backward of step 3), rank 1 (backward of step 3), no rank behind another"
    )
