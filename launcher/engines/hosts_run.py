"""Commands on hosts, all at once: their lines, their ends, and signals for them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from threading import Lock, Thread
from types import FrameType
from typing import IO, TextIO

from launcher.engines.hosts_check import SSH_FAILED, last_line
from launcher.run.process import LOOK_SECONDS, SIGNALLED, STOP_SIGNALS

END_SECONDS = 120.0
"""For the other hosts to find by themselves that one is lost (30 s) and end (60 s), and as long
again once they are asked to stop."""
RELAY_SECONDS = 5.0
"""For the last lines, where something that ssh has started holds its output open."""
CONNECTION_ATTEMPTS = 60
"""Of ssh itself, at a lost host that may be starting up."""
_WRITING = Lock()


@dataclass(slots=True)
class OnHost:
    """A command on a host, started again where the host was lost."""

    command: Sequence[str]
    starts: int = 0
    code: int | None = None
    """Once it has ended for good."""
    said: str = ""
    """The last line of its errors, which are ssh's too."""
    process: subprocess.Popen[str] | None = None
    relays: list[Thread] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.command[-2]

    def start(self) -> None:
        again = ("-o", f"ConnectionAttempts={CONNECTION_ATTEMPTS}") if self.starts else ()
        self.starts += 1
        self.process = subprocess.Popen(
            [self.command[0], *again, *self.command[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.relays = [
            Thread(target=self.relay, args=streams, daemon=True)
            for streams in ((self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr))
        ]
        for thread in self.relays:
            thread.start()

    def relay(self, source: IO[str], target: TextIO) -> None:
        with source:
            for line in source:
                if target is sys.stderr:
                    self.said = line
                with _WRITING:
                    target.write(f"[{self.name}] {line.rstrip()}\n")
                    target.flush()

    def ended(self) -> int | None:
        """The exit code, with every line before it shown."""
        assert self.process is not None
        assert self.process.stdin is not None
        code = self.process.poll()
        if code is not None:
            self.process.stdin.close()
            for thread in self.relays:
                thread.join(RELAY_SECONDS)
        return code

    def abandon(self) -> None:
        assert self.process is not None
        self.process.kill()

    def tell(self, number: int) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which the next look finds
            os.write(self.process.stdin.fileno(), f"{number}\n".encode())


def run_on_hosts(commands: Sequence[Sequence[str]], *, max_restarts: int) -> int:
    """The training's exit code, once all have ended.

    A signal is told to every host, whose run stops with a checkpoint. The first host's loss ends
    the run, since the nodes meet there; any other's does once it was started ``max_restarts``
    times again.
    """
    together = Together(nodes=[OnHost(command) for command in commands], max_restarts=max_restarts)

    def receive(number: int, _frame: FrameType | None) -> None:
        together.received.append(number)

    with ExitStack() as stack:
        for number in STOP_SIGNALS:
            stack.callback(signal.signal, number, signal.signal(number, receive))
        for node in together.nodes:
            node.start()
        while together.running:
            time.sleep(LOOK_SECONDS)
            together.look()
    return together.exit_code()


@dataclass(slots=True, kw_only=True)
class Together:
    """Every host's command, and what has become of them as a whole."""

    nodes: Sequence[OnHost]
    max_restarts: int
    received: list[int] = field(default_factory=list)
    """Signals, in their order."""
    told: int = 0
    """How many of them the hosts know of."""
    first_failed: OnHost | None = None
    limit_s: float = float("inf")
    """On the monotonic clock, when the rest should have ended by itself."""
    asked: bool = False

    @property
    def running(self) -> list[OnHost]:
        return [node for node in self.nodes if node.code is None]

    def look(self) -> None:
        for number in self.received[self.told :]:
            self.tell(number)
            self.told += 1
        for node in self.running:
            code = node.ended()
            if code == SSH_FAILED and self.may_start_again(node):
                say(f"{how_it_ended(node, code)}: {node.starts} of {self.max_restarts} restarts")
                node.start()
            elif code is not None:
                self.take_end(node, code)
        if time.monotonic() > self.limit_s:
            self.end_the_rest()

    def may_start_again(self, node: OnHost) -> bool:
        undisturbed = not self.received and self.first_failed is None
        return undisturbed and node is not self.nodes[0] and node.starts <= self.max_restarts

    def take_end(self, node: OnHost, code: int) -> None:
        node.code = code
        if code != 0 and self.first_failed is None:
            self.first_failed, self.limit_s = node, time.monotonic() + END_SECONDS
            if not self.received:
                say(f"error: {how_it_ended(node, code)}")

    def end_the_rest(self) -> None:
        self.limit_s = time.monotonic() + END_SECONDS
        if not self.asked:
            self.asked = True
            self.tell(signal.SIGTERM)
            return
        for node in self.running:
            say(f"{node.name} does not end, and is left")
            node.abandon()

    def tell(self, number: int) -> None:
        for node in self.running:
            node.tell(number)

    def exit_code(self) -> int:
        """A signal's; else the first failure's, or another's where ssh alone knows of that."""
        if self.first_failed is None:
            return 0
        if self.received:
            return SIGNALLED + self.received[0]
        codes = [self.first_failed.code, *(node.code for node in self.nodes)]
        return next((code for code in codes if code and code != SSH_FAILED), 1)


def how_it_ended(node: OnHost, code: int) -> str:
    if code == SSH_FAILED:
        return f"{node.name} is lost ({last_line(node.said)})"
    return f"{node.name} ended with exit code {code}"


def say(line: str) -> None:
    with _WRITING:
        print(line, file=sys.stderr, flush=True)
