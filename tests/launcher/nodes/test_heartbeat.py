"""What a node says of itself, and who believes it."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from launcher.nodes import heartbeat
from launcher.nodes.heartbeat import Beat, Heart, Peer, beat_file, read_beat
from launcher.nodes.node_identity import Node
from tests.launcher.nodes.launched import wait_until

NODE = Node(name="n2", address="10.0.0.2", interface="eth0", leads=False)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(heartbeat, "SILENT_SECONDS", 0.2)


def peer(folder: Path) -> Peer:
    return Peer(folder, NODE.name, NODE.address, leads=False)


def lost(one: Peer) -> bool:
    one.listen()
    return one.is_lost


def test_a_node_beats_while_it_reaches_the_leader(tmp_path: Path) -> None:
    reaches = True
    one = peer(tmp_path)
    with Heart(tmp_path, NODE, lambda: reaches) as heart:
        heart.say("training", attempt=1)
        one.listen()
        assert (one.heard, one.beat.state, one.beat.attempt) == (True, "training", 1)
        first = one.beat.count
        wait_until(lambda: not lost(one) and one.beat.count > first + 2, "more beats")
        reaches = False
        wait_until(lambda: lost(one), "silence")
        assert heart.unreached_s > 0.1
        reaches = True
        wait_until(lambda: not lost(one), "its return")


def test_a_file_of_an_earlier_launch_is_not_believed(tmp_path: Path) -> None:
    """Until it changes; times in it are nobody's business."""
    before = Beat(name="n2", address="10.0.0.2", state="training", attempt=3, count=70)
    file = beat_file(tmp_path, "10.0.0.2")
    file.write_text(json.dumps(asdict(before)), encoding="utf-8")
    one = peer(tmp_path)
    wait_until(lambda: lost(one), "silence")
    assert [one.heard, one.is_lost] == [False, True]
    file.write_text(json.dumps(asdict(replace(before, count=1))), encoding="utf-8")
    one.listen()
    assert [one.heard, one.is_lost] == [True, False]


def test_one_that_has_said_its_last_word_is_not_lost(tmp_path: Path) -> None:
    one = peer(tmp_path)
    with Heart(tmp_path, NODE, lambda: True) as heart:
        heart.say("failed", code=2, message="no disk")
    one.listen()
    wait_until(lambda: one.silent_s > 0.3, "silence")
    assert not one.is_lost
    assert (one.beat.code, one.beat.message) == (2, "no disk")


def test_half_a_file_is_no_beat(tmp_path: Path) -> None:
    file = beat_file(tmp_path, "10.0.0.2")
    file.write_text('{"name": "n2"', encoding="utf-8")
    assert read_beat(file) is None
    assert read_beat(tmp_path / "none.json") is None
