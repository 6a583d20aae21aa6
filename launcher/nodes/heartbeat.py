"""What each node's launching process says of itself, in a file that the others read.

A reader judges by its own clock whether a file still changes, so clocks need not agree. Files are
replaced whole, and opened again at every look, which is when NFS asks its server.
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

State = Literal["meeting", "preparing", "ready", "training", "over", "failed", "done"]
"""``ready``: its inputs are there. ``over``: the ranks of an attempt have ended. ``failed``,
``done``: this launch ends."""
BEAT_SECONDS = 2.0
SILENT_SECONDS = 30.0
"""A node that is not heard of for so long is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """Of one node."""

    name: str
    address: str
    state: State = "meeting"
    attempt: int = 0
    """Of the ranks' starts, from 1; 0 before the first."""
    code: int | None = None
    """With which its part ended."""
    message: str = ""
    """One line, for a person."""
    count: int = 0

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


def beat_file(folder: Path, address: str) -> Path:
    return folder / f"{address}.json"


def read_beat(file: Path) -> Beat | None:
    try:
        return Beat(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


class Heart:
    """Writes this node's beats from a thread of its own, for as long as the block lasts.

    A node beats only while it reaches the leader: a lost link is as good as a lost node.
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
        self._thread.join()

    def say(
        self, state: State, *, attempt: int = 0, code: int | None = None, message: str = ""
    ) -> None:
        with self._lock:
            self._beat = replace(
                self._beat, state=state, attempt=attempt, code=code, message=message
            )
        self._write()

    @property
    def beat(self) -> Beat:
        return self._beat

    @property
    def unreached_s(self) -> float:
        """Seconds since the leader was reached."""
        return time.monotonic() - self._reached_at

    def _beat_on(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            if self._reaches_leader():
                self._reached_at = time.monotonic()
                with suppress(OSError):  # a disk that comes back too late is as good as silence
                    self._write()

    def _write(self) -> None:
        with self._lock:
            self._beat = replace(self._beat, count=self._beat.count + 1)
            # Not made durable: a disk that takes checkpoints would hold the beats up.
            write_json(self._file, asdict(self._beat), durable=False)


class Peer:
    """Another node, as its file tells."""

    def __init__(self, folder: Path, name: str, address: str, *, leads: bool) -> None:
        self._file = beat_file(folder, address)
        self.address, self.leads = address, leads
        self.beat = Beat(name=name, address=address)
        self._changed_at = time.monotonic()
        self.heard = False
        """Whether it has beaten since this was made: a file may be of an earlier launch."""
        self._before = read_beat(self._file)

    def listen(self) -> None:
        found = read_beat(self._file)
        if found is not None and found not in (self._before, self.beat):
            self.beat, self.heard = found, True
            self._changed_at = time.monotonic()

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self._changed_at

    @property
    def is_lost(self) -> bool:
        return self.silent_s > SILENT_SECONDS and self.beat.state not in ("failed", "done")

    def __str__(self) -> str:
        return str(self.beat)
