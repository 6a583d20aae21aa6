"""What one node makes of the others' words and of their silence."""

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from launcher.faults.failure import Failure, write_failure
from launcher.faults.outcome import PeerFailure
from launcher.nodes import heartbeat, peers
from launcher.nodes.heartbeat import Heart, Peer
from launcher.nodes.launch import await_leader
from launcher.nodes.node_identity import Endpoint, Node
from launcher.nodes.peers import SeveralNodes, ThisNode
from launcher.run.run_directory import RunDirectory
from planner.base.errors import InvalidRequestError
from tests.launcher.nodes.launched import wait_until
from tests.launcher.plans import parallel, plan

LEADER = Node(name="n1", address="10.0.0.1", interface="eth0", leads=True)
OTHER = Node(name="n2", address="10.0.0.2", interface="eth0", leads=False)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (peers, heartbeat):
        monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
        monkeypatch.setattr(module, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(peers, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(peers, "GRACE_SECONDS", 0.1)


def seen_from(node: Node, other: Node, folder: Path, *, max_restarts: int = 0) -> SeveralNodes:
    run = RunDirectory(folder, node.address)
    run.nodes.mkdir(exist_ok=True)
    here = ThisNode(
        node=node,
        endpoint=Endpoint(host=LEADER.address, port=29500),
        run=run,
        heart=Heart(run.nodes, node, lambda: True),
    )
    two = parallel("ddp") | {"num_nodes": 2, "gpus_per_node": 1}
    planned = plan(parallel=two, batch__gradient_accumulation_steps=1)
    peer = Peer(run.nodes, other.name, other.address, leads=other.leads)
    return SeveralNodes(planned, here, [peer], max_restarts=max_restarts)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Heart]:
    """Of the node that does not lead, alive."""
    (tmp_path / ".nodes").mkdir()
    with Heart(tmp_path / ".nodes", OTHER, lambda: True) as heart:
        yield heart


def test_all_is_well(tmp_path: Path, other: Heart) -> None:
    nodes = seen_from(LEADER, OTHER, tmp_path)
    nodes.attempt = 1
    other.say("training", attempt=1)
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        assert not nodes.look()
    assert nodes.peer_failure is None


def test_the_leader_waits_for_who_prepares_longer(tmp_path: Path, other: Heart) -> None:
    nodes = seen_from(LEADER, OTHER, tmp_path)
    other.say("preparing")
    waiting = Thread(target=nodes.join_attempt)
    waiting.start()
    time.sleep(0.2)
    assert nodes.attempt == 0
    other.say("ready")
    waiting.join(10)
    assert nodes.attempt == 1


def test_one_that_fails_ends_all_with_its_reason(tmp_path: Path, other: Heart) -> None:
    nodes = seen_from(LEADER, OTHER, tmp_path)
    other.say("failed", code=2, message="data.jsonl:3: no answer")
    wait_until(nodes.look, "its word")
    assert nodes.peer_failure == PeerFailure(
        reason="node n2 (10.0.0.2) ended the run: data.jsonl:3: no answer", code=2
    )


def test_one_that_is_silent_is_waited_for_where_it_may_come_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = seen_from(LEADER, OTHER, tmp_path, max_restarts=1)
    wait_until(
        lambda: nodes.look() or "failed: no heartbeat" in capsys.readouterr().err, "its name"
    )
    assert nodes.peer_failure is None
    with Heart(tmp_path / ".nodes", OTHER, lambda: True):
        wait_until(lambda: nodes.look() or "is back" in capsys.readouterr().err, "its return")
    assert nodes.peer_failure is None


@pytest.mark.parametrize("max_restarts", [0, 1])
def test_the_one_that_leads_cannot_come_back(max_restarts: int, tmp_path: Path) -> None:
    nodes = seen_from(OTHER, LEADER, tmp_path, max_restarts=max_restarts)
    assert nodes.await_leader_state("training") is None
    assert nodes.peer_failure is not None
    assert nodes.peer_failure.reason == "node n1 (10.0.0.1) failed: no heartbeat for 0.3 s"


def test_ranks_that_wait_for_those_of_a_node_that_has_ended_its_own(
    tmp_path: Path, other: Heart
) -> None:
    """Nobody is lost: the leader decides what comes next."""
    nodes = seen_from(LEADER, OTHER, tmp_path)
    nodes.attempt = 1
    other.say("over", attempt=1, code=1)
    wait_until(nodes.look, "the end of the grace")
    assert nodes.peer_failure is None
    assert nodes.blame(1, None) is None


def test_another_nodes_watch_knows_more(tmp_path: Path, other: Heart) -> None:
    nodes = seen_from(LEADER, OTHER, tmp_path)
    nodes.attempt = 1
    waiting = "no progress for 2 s: rank 0 is waiting for rank 1"
    other.say("over", attempt=1, code=137, message=waiting)
    failure = nodes.blame(1, None)
    assert failure is not None
    assert failure.reason == f"node n2 (10.0.0.2): {waiting}"


def test_a_cause_that_is_known_blames_nobody(tmp_path: Path, other: Heart) -> None:
    """And waits for nobody: the other trains on, as far as it says."""
    nodes = seen_from(LEADER, OTHER, tmp_path)
    nodes.attempt = 1
    other.say("training", attempt=1)
    failure = Failure(
        cause="out_of_memory", rank=1, stage="forward", step=1, message="no room", at=0.0
    )
    write_failure(tmp_path / ".ranks", failure)
    began = time.monotonic()
    assert nodes.blame(1, None) is None
    assert time.monotonic() - began < 0.2


def test_where_no_rank_knows_the_silence_of_the_other_node_tells(tmp_path: Path) -> None:
    nodes = seen_from(LEADER, OTHER, tmp_path)
    nodes.attempt = 1
    failure = nodes.blame(1, None)
    assert failure is not None
    assert failure.reason.startswith("node n2 (10.0.0.2) failed: ")


def test_a_leader_that_ends_before_the_nodes_meet(tmp_path: Path) -> None:
    (tmp_path / ".nodes").mkdir()
    leader = Peer(tmp_path / ".nodes", LEADER.name, LEADER.address, leads=True)
    with Heart(tmp_path / ".nodes", LEADER, lambda: True) as heart:
        heart.say("failed", code=2, message="runs/x holds an unfinished run")
        with pytest.raises(InvalidRequestError, match="ended the run: runs/x holds an unfin"):
            await_leader(Endpoint(host="127.0.0.1", port=1), leader)
