"""Two nodes for real: torch elastic over gloo between two network namespaces."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.nodes.namespaces import Namespace
from launcher.faults.rank_stages import rank_positions
from launcher.run.checkpoints import last_whole
from tests.launcher.forked import Launcher
from tests.launcher.interrupted import SIX_STEPS
from tests.launcher.launching import Finished, write_plan, write_samples
from tests.launcher.nodes.launched import Launched, wait_until
from tests.launcher.plans import SIXTEEN_BIT, TWO_RANKS, full, parallel
from tests.launcher.training.test_strategies import SAME_SUMS, SIXTEEN_BIT_WEIGHTS

Nodes = tuple[Namespace, Namespace]
MANY_STEPS = {"max_steps": 5000, "save_steps": 1000}
"""More than there is time for."""


def write(folder: Path, checkpoint: Path, strategy: str, **changes: Any) -> None:
    """A rank on each of two nodes."""
    two = parallel(strategy) | {"num_nodes": 2, "gpus_per_node": 1}
    precision = {} if strategy == "ddp" else {"precision": SIXTEEN_BIT}
    changes = {"parallel": two, "training": SIX_STEPS, **TWO_RANKS, **precision, **changes}
    write_plan(folder, model__source=str(checkpoint), **full(**changes))


def begin(nodes: Nodes, folder: Path, *options: str, leader: int = 0) -> list[Launched]:
    given = ("--rdzv-endpoint", nodes[leader].address, *options)
    return [Launched(node, folder, given) for node in nodes]


def finished(launches: list[Launched], folder: Path) -> Finished:
    codes = [each.ended() for each in launches]
    said = "\n".join(each.said for each in launches)
    assert codes == [0, 0], said
    return Finished(0, "", said, folder / "run")


def wait_for_step(step: int, folder: Path) -> None:
    wait_until(lambda: steps(folder) >= step, f"step {step}")


def steps(folder: Path) -> int:
    file = folder / "run" / "metrics.jsonl"
    return len(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else 0


@pytest.fixture(scope="module")
def one_process(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses at the same global batch."""
    folder = tmp_path_factory.mktemp("single")
    write_samples(folder)
    write_plan(folder, model__source=str(tiny_checkpoint), **full(training=SIX_STEPS))
    done = Launcher().run(folder)
    assert done.code == 0, done.errors
    return done.losses


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_two_nodes_train_as_one_process(
    strategy: str, nodes: Nodes, folder: Path, tiny_checkpoint: Path, one_process: list[float]
) -> None:
    """The data are tokenized by one of them, the result is shown by the one that has rank 0."""
    write(folder, tiny_checkpoint, strategy)
    launches = begin(nodes, folder)
    done = finished(launches, folder)
    tolerance = SAME_SUMS if strategy == "ddp" else SIXTEEN_BIT_WEIGHTS
    assert done.losses == pytest.approx(one_process, rel=tolerance)
    assert "2 nodes, all-reduce" in launches[0].said
    assert sum("data: already tokenized" in each.said for each in launches) == 1
    for launch in launches:
        settings = "NCCL_SOCKET_IFNAME=cable0 GLOO_SOCKET_IFNAME=cable0"
        assert f"\nnetwork: {settings}" in launch.said
    assert "loss 5.6" in launches[0].said
    assert "finished; rank 0 was on 10.0.0.1: run" in launches[1].said
    logs = {path.name for path in (done.run / "logs").iterdir()}
    assert logs >= {"rank-0.log", "rank-1.log", "launcher-10.0.0.1.log", "launcher-10.0.0.2.log"}


@pytest.mark.long
def test_a_node_is_killed_and_started_again(
    nodes: Nodes, folder: Path, tiny_checkpoint: Path, one_process: list[float]
) -> None:
    """That of rank 0, which is not the one that leads: it goes on from the last checkpoint with
    the curve of a run that nothing has disturbed. ZeRO-3."""
    write(folder, tiny_checkpoint, "zero3")
    options = ("--max-restarts", "1")
    launches = begin(nodes, folder, *options, leader=1)
    wait_for_step(3, folder)
    nodes[0].kill()
    launches[0].ended()
    wait_until(lambda: "(10.0.0.1) failed: no heartbeat" in launches[1].said, "its name")
    endpoint = ("--rdzv-endpoint", nodes[1].address, *options)
    again = Launched(nodes[0], folder, endpoint, number=1)
    done = finished([again, launches[1]], folder)
    assert "is already training: this node joins again" in again.said
    assert "(10.0.0.1) is back" in launches[1].said
    assert done.losses == pytest.approx(one_process, rel=SIXTEEN_BIT_WEIGHTS)
    attempts = json.loads((done.run / "attempts.json").read_bytes())
    assert [(each["from_step"], each["ended"]) for each in attempts] == [
        (0, "the ranks were restarted"),
        (2, "finished"),
    ]


@pytest.mark.parametrize(
    ("end", "ends"), [(Namespace.cut, 1), (Namespace.kill, 0)], ids=["cable out", "leader killed"]
)
def test_a_lost_node_is_named(
    end: Callable[[Namespace], None],
    ends: int,
    nodes: Nodes,
    folder: Path,
    tiny_checkpoint: Path,
) -> None:
    write(folder, tiny_checkpoint, "ddp", training=MANY_STEPS)
    launches = begin(nodes, folder)
    wait_for_step(3, folder)
    end(nodes[ends])
    survivor = launches[1 - ends]
    assert survivor.ended() == 1
    last = survivor.said.splitlines()[-1]
    assert f"({nodes[ends].address}) failed: no heartbeat for 3 s" in last


def test_a_signal_to_one_node_stops_all_behind_the_same_step(
    nodes: Nodes, folder: Path, tiny_checkpoint: Path
) -> None:
    """A job that its engine starts again goes on from there by the same command."""
    write(folder, tiny_checkpoint, "ddp", training=MANY_STEPS)
    launches = begin(nodes, folder, "--begin-or-resume")
    wait_for_step(3, folder)
    launches[1].process.terminate()
    assert [each.ended() for each in launches] == [128 + signal.SIGTERM] * 2
    saved, _ = last_whole(folder / "run" / "checkpoints")
    assert saved is not None
    stopped = f"training was stopped by SIGTERM; step {saved.step} is saved: --resume continues"
    for each in launches:  # the one that ends later may have it from the other
        last = each.said.splitlines()[-1]
        assert last.startswith("error: ")
        assert last.endswith(stopped)

    again = begin(nodes, folder, "--begin-or-resume")
    wait_for_step(saved.step + 2, folder)
    assert f"resuming from step {saved.step}" in again[0].said
    for launch in again:
        launch.process.terminate()
    assert [each.ended() for each in again] == [128 + signal.SIGTERM] * 2


def test_what_speaks_against_a_run_is_said_on_every_node(
    nodes: Nodes, folder: Path, tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path
) -> None:
    """Storage that is not shared, data that are on one node only; and a cable that is slow in one
    direction, 10 MB/s, is noticed."""
    nodes[1].limit_bytes_per_s(10_000_000)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for each in (folder, elsewhere):
        write(each, tiny_checkpoint, "ddp", hardware__network="10gbe")
    given = ("--rdzv-endpoint", nodes[0].address)
    launches = [Launched(nodes[0], folder, given), Launched(nodes[1], elsewhere, given)]
    assert [each.ended() for each in launches] == [2, 2]
    note = next(line for line in launches[0].said.splitlines() if line.startswith("note: "))
    found = re.search(
        r"all-reduce moves (\S+) MB/s per node instead of the 1.2 GB/s that .* assumes \(10gbe\)"
        r".*The slowest link is \S+ \(10.0.0.2\) -> \S+ \(10.0.0.1\), (\S+) MB/s",
        note,
    )
    assert found is not None, note
    assert [float(rate) for rate in found.groups()] == pytest.approx([10, 10], rel=0.5)
    for launch in launches:
        *_, last = launch.said.splitlines()
        assert "(10.0.0.2): data file data.jsonl does not exist" in last
        assert "(10.0.0.2) does not see the run directory of " in last
        assert last.count("error: ") == 1


@pytest.mark.long
def test_a_rank_on_one_node_is_started_again(
    nodes: Nodes, folder: Path, tiny_checkpoint: Path
) -> None:
    """Its peer, which has only lost it, with it."""
    changes: dict[str, Any] = {"training": {"max_steps": 200, "save_steps": 50}, **TWO_RANKS}
    write_plan(folder, model__source=str(tiny_checkpoint), parallel=parallel("ddp"), **changes)
    launch = Launched(nodes[0], folder, ("--max-restarts", "1"))
    wait_for_step(60, folder)
    os.kill(rank_positions(folder / "run" / ".ranks")[1].process, signal.SIGKILL)
    assert launch.ended() == 0, launch.said
    attempts = json.loads((folder / "run" / "attempts.json").read_bytes())
    begun, again = attempts
    assert (begun["from_step"], begun["ended"]) == (0, "the ranks were restarted")
    assert (again["from_step"] % 50, again["ended"]) == (0, "finished")
    assert again["from_step"] > 0
    assert steps(folder) == 200
