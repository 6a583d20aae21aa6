"""The heartbeat of every node: its state, in a file that the other nodes read.

A reader judges by its own clock whether a file still changes, so clocks need not agree. Files are
replaced whole, and opened again at every look, because NFS asks its server then.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Literal

from launcher.nodes.node_identity import Node
from launcher.storage.json_files import write_json

NodeState = Literal["meeting", "preparing", "ready", "training", "over", "failed", "done"]
"""``ready``: the node's inputs are prepared. ``over``: its ranks of an attempt have ended.
``failed``, ``done``: its launch ends."""
BEAT_SECONDS = 2.0
"""Seconds between two beats of a node."""
END_SECONDS = 10.0
"""Seconds that the end of a launch waits for a beat that is under way."""
SILENT_SECONDS = 30.0
"""Seconds without a beat after which a node has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The state of one node, as it last wrote it."""

    name: str
    address: str
    state: NodeState = "meeting"
    attempt: int = 0
    """Number of the ranks' start, from 1; 0 before the first."""
    code: int | None = None
    """Exit code of its part, once that has ended."""
    message: str = ""
    """One line that says why it ended."""
    count: int = 0
    """Number of this beat, so that every beat differs from the one before."""

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


def beat_file(folder: Path, address: str) -> Path:
    """Return the file of a node's beats in the run's folder of nodes."""
    return folder / f"{address}.json"


def read_beat(file: Path) -> Beat | None:
    """Return the last beat of a node; None if there is none, or it cannot be read now."""
    try:
        return Beat(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


class Heart:
    """The writer of this node's beats, in a thread of its own that lives as long as the block.

    A node beats only while it reaches the leader: a broken link counts as a failed node.
    """

    def __init__(self, folder: Path, node: Node, reaches_leader: Callable[[], bool]) -> None:
        self._file = beat_file(folder, node.address)
        self._reaches_leader = reaches_leader
        self._beat = Beat(name=node.name, address=node.address)
        self._reached_at = time.monotonic()
        self._lock, self._end = Lock(), Event()
        self._thread = Thread(target=self._beat_on, name="heart", daemon=True)

    def __enter__(self) -> "Heart":
        self._file.parent.mkdir(exist_ok=True)
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(END_SECONDS)  # longer where the leader or the disk does not answer

    def say(
        self, state: NodeState, *, attempt: int = 0, code: int | None = None, message: str = ""
    ) -> None:
        """Change what this node's beats say, and write one now."""
        with self._lock:
            self._beat = replace(
                self._beat, state=state, attempt=attempt, code=code, message=message
            )
        self._write()

    @property
    def beat(self) -> Beat:
        """The last beat of this node."""
        return self._beat

    @property
    def unreached_s(self) -> float:
        """Seconds since the leader was last reached."""
        return time.monotonic() - self._reached_at

    def _beat_on(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            if self._reaches_leader():
                self._reached_at = time.monotonic()
                with suppress(OSError):  # without a beat the others take it for failed
                    self._write()

    def _write(self) -> None:
        with self._lock:
            self._beat = replace(self._beat, count=self._beat.count + 1)
            # Not made durable: a disk that takes checkpoints would hold the beats up.
            write_json(self._file, asdict(self._beat), durable=False)


class Peer:
    """Another node, as its file shows it."""

    def __init__(self, folder: Path, name: str, address: str, *, leads: bool) -> None:
        self._file = beat_file(folder, address)
        self.address, self.leads = address, leads
        self.beat = Beat(name=name, address=address)
        self._changed_at = time.monotonic()
        self.heard = False
        """Whether it has beaten since this object was made: its file may be an earlier launch's."""
        self._before = read_beat(self._file)

    def listen(self) -> None:
        """Read its file, and note the time if it has changed."""
        beat = read_beat(self._file)
        if beat is not None and beat not in (self._before, self.beat):
            self.beat, self.heard = beat, True
            self._changed_at = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since its file last changed."""
        return time.monotonic() - self._changed_at

    @property
    def is_lost(self) -> bool:
        """Whether it has been silent for too long without having ended its run."""
        return self.silent_s > SILENT_SECONDS and self.beat.state not in ("failed", "done")

    def __str__(self) -> str:
        return str(self.beat)
