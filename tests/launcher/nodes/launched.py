"""``launch --rdzv-endpoint HOST`` on a namespace, forked from a process that has imported all."""

import ctypes
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

from benchmarks.nodes.namespaces import Namespace
from tests.launcher.forked import ENVIRONMENT, server
from tests.launcher.launching import environment
from tests.launcher.nodes.forking import become, fork_modules

CLONE_NEWNET = 0x40000000
SILENT_SECONDS = 3.0
BEAT_SECONDS = 0.3
LIMIT_SECONDS = 120.0


@dataclass
class Launched:
    node: Namespace
    folder: Path
    options: tuple[str, ...]
    number: int = 0
    process: BaseProcess = field(init=False)

    def __post_init__(self) -> None:
        self.process = server().Process(
            target=_launch, args=(self.node.name, self.folder, self.options, self.said_file)
        )
        self.process.start()

    @property
    def said_file(self) -> Path:
        return self.folder / f"said-{self.node.address}-{self.number}.txt"

    @property
    def said(self) -> str:
        return self.said_file.read_text(encoding="utf-8")

    def ended(self) -> int | None:
        """The exit code."""
        self.process.join(LIMIT_SECONDS)
        return self.process.exitcode


def _launch(namespace: str, folder: Path, options: tuple[str, ...], said: Path) -> None:
    with Path("/run/netns", namespace).open("rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    screen = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for number in (1, 2):
        os.dup2(screen, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment(**ENVIRONMENT, XDG_CACHE_HOME=str(folder / "cache")))
    for module in (subprocess, subprocess_handler):
        setattr(module, "Popen", fork_modules)  # noqa: B010
    _hasten()
    become(["launcher.cli.launch_command", "plan.yaml", *options])


def _hasten() -> None:
    """Silence that means loss is a tenth of what it is for a person."""
    from launcher.nodes import heartbeat, meeting, peers

    meeting.SEEN_SECONDS = 0.5
    hastened = {"SILENT_SECONDS": SILENT_SECONDS, "BEAT_SECONDS": BEAT_SECONDS}
    for module in (peers, heartbeat):
        for name, seconds in hastened.items():
            setattr(module, name, seconds)


def wait_until(true: Callable[[], object], what: str) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > LIMIT_SECONDS:
            raise TimeoutError(f"waited {LIMIT_SECONDS:g} s for {what}")
        time.sleep(0.05)
    return time.monotonic() - began
