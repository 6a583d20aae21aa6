"""A training that Slurm interrupts: two nodes, and the loss curve of one that nobody disturbed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launcher.forked import Launcher
from tests.launcher.interrupted import DROPOUT, rows
from tests.launcher.launching import Finished, environment, write_plan
from tests.launcher.plans import TWO_RANKS, nodes, parallel
from tests.launcher.slurm.cluster import Cluster, preempt

LONG_ENOUGH = {"max_steps": 200, "save_steps": 1000}
"""To be preempted amid it."""
LIMIT_SECONDS = 240.0


@pytest.mark.long
def test_preempted_requeued_and_gone_on(
    cluster: Cluster, launcher: Launcher, tiny_checkpoint: Path, folder: Path
) -> None:
    changes = {"model__source": str(tiny_checkpoint), "adapter": DROPOUT, "training": LONG_ENOUGH}
    write_plan(folder, parallel=parallel("ddp"), **TWO_RANKS, **changes)
    undisturbed = launcher.run(folder)
    assert undisturbed.code == 0, undisturbed.errors
    expected = rows(undisturbed)

    write_plan(folder, **nodes(2), **changes, output__directory="disturbed")
    run = folder / "disturbed"
    with launched(folder) as launch:
        wait_for_steps(run / "metrics.jsonl", 5)
        preempt(cluster)
        output, _ = launch.communicate(timeout=LIMIT_SECONDS)
    assert launch.returncode == 0, output
    assert rows(Finished(launch.returncode, output, "", run)) == expected
    first, second = json.loads((run / "attempts.json").read_text())
    assert first["ended"] == "stopped by SIGTERM"
    assert 5 <= second["from_step"] < 200
    assert "preempted; it waits for its next turn" in output
    assert f"resuming from step {second['from_step']}" in output


def launched(folder: Path) -> "subprocess.Popen[str]":
    command = (*("launcher", "plan.yaml", "--on", "slurm"), "--with", "partition=low")
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment(XDG_CACHE_HOME=str(folder / "cache")),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_steps(metrics: Path, number: int) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while not metrics.is_file() or len(metrics.read_bytes().splitlines()) < number:
        assert time.monotonic() < end
        time.sleep(0.1)
