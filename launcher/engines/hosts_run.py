"""The commands on all hosts: their lines are shown, signals passed on, failed hosts restarted."""

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
from launcher.run.process import LOOK_SECONDS, SIGNALLED, heeded_signals
from planner.base.phrases import Phrase
from planner.base.printable import print_text

END_SECONDS = 120.0
"""Seconds for the other hosts to notice that one has failed (30 s) and to end (60 s), and again as
long once they are asked to stop."""
RELAY_SECONDS = 5.0
"""Seconds for the last lines, if a process that ssh has started keeps its output open."""
CONNECTION_ATTEMPTS = 60
"""Number of ssh's connection attempts to a failed host, which may be starting up."""
_WRITING = Lock()


@dataclass(slots=True)
class HostCommand:
    """A command on one host, which is started again if the host fails."""

    command: Sequence[str]
    starts: int = 0
    """Number of times that it was started."""
    code: int | None = None
    """Exit code, once it has ended for good."""
    last_error: str = ""
    """The last line of its standard error, which is ssh's too."""
    process: subprocess.Popen[str] | None = None
    relays: list[Thread] = field(default_factory=list)
    """Threads that print its lines."""

    @property
    def name(self) -> str:
        """Name of the host."""
        return self.command[-2]

    def start(self) -> None:
        """Start the command, and the threads that print its lines."""
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
        """Print every line of a stream with the host's name before it."""
        with source:
            for line in source:
                if target is sys.stderr:
                    self.last_error = line
                with _WRITING:
                    target.write(f"[{self.name}] {line.rstrip()}\n")
                    target.flush()

    def ended(self) -> int | None:
        """Return the exit code once all lines are printed; None while it runs."""
        assert self.process is not None
        assert self.process.stdin is not None
        code = self.process.poll()
        if code is not None:
            self.process.stdin.close()
            for thread in self.relays:
                thread.join(RELAY_SECONDS)
        return code

    def abandon(self) -> None:
        """Kill ssh on this machine."""
        assert self.process is not None
        self.process.kill()

    def send_signal(self, number: int) -> None:
        """Send a signal to the command on the host, by its number on standard input."""
        assert self.process is not None
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which the next look notices
            os.write(self.process.stdin.fileno(), f"{number}\n".encode())


def run_on_hosts(commands: Sequence[Sequence[str]], *, max_restarts: int) -> int:
    """Run the commands on their hosts, and return the training's exit code when all have ended.

    A signal is passed on to every host, whose run stops with a checkpoint. If the first host fails,
    the run ends, because the nodes meet there. Any other host is started again, ``max_restarts``
    times at most.
    """
    hosts = HostCommands(
        nodes=[HostCommand(command) for command in commands], max_restarts=max_restarts
    )

    def receive(number: int, _frame: FrameType | None) -> None:
        hosts.received.append(number)

    with ExitStack() as stack:
        for number in heeded_signals():
            stack.callback(signal.signal, number, signal.signal(number, receive))
        for node in hosts.nodes:
            node.start()
        while hosts.running:
            time.sleep(LOOK_SECONDS)
            hosts.look()
    return hosts.exit_code()


@dataclass(slots=True, kw_only=True)
class HostCommands:
    """The commands of all hosts, and how the run as a whole ends."""

    nodes: Sequence[HostCommand]
    max_restarts: int
    received: list[int] = field(default_factory=list)
    """Numbers of the signals that were received, in their order."""
    num_sent: int = 0
    """Number of them that the hosts have been sent."""
    first_failed: HostCommand | None = None
    limit_s: float = float("inf")
    """Time of the monotonic clock by which the remaining hosts should have ended."""
    asked_to_stop: bool = False

    @property
    def running(self) -> list[HostCommand]:
        """The commands that have not ended for good."""
        return [node for node in self.nodes if node.code is None]

    def look(self) -> None:
        """Pass signals on, take note of commands that have ended, and restart or end others."""
        for number in self.received[self.num_sent :]:
            self.send_signal(number)
            self.num_sent += 1
        for node in self.running:
            code = node.ended()
            if code == SSH_FAILED and self.may_restart(node):
                say(
                    Phrase(
                        "{end}: restart {starts} of {max_restarts}",
                        end=describe_end(node, code),
                        starts=node.starts,
                        max_restarts=self.max_restarts,
                    )
                )
                node.start()
            elif code is not None:
                self.record_end(node, code)
        if time.monotonic() > self.limit_s:
            self.end_the_rest()

    def may_restart(self, node: HostCommand) -> bool:
        """Return whether a failed host is started again."""
        undisturbed = not self.received and self.first_failed is None
        return undisturbed and node is not self.nodes[0] and node.starts <= self.max_restarts

    def record_end(self, node: HostCommand, code: int) -> None:
        """Record that a command has ended for good; the first failure limits the others' time."""
        node.code = code
        if code != 0 and self.first_failed is None:
            self.first_failed, self.limit_s = node, time.monotonic() + END_SECONDS
            if not self.received:
                say(Phrase("error: {end}", end=describe_end(node, code)))

    def end_the_rest(self) -> None:
        """Ask the remaining hosts to stop, or give them up if they were asked before."""
        self.limit_s = time.monotonic() + END_SECONDS
        if not self.asked_to_stop:
            self.asked_to_stop = True
            self.send_signal(signal.SIGTERM)
            return
        for node in self.running:
            say(Phrase("{name} does not end and is given up", name=node.name))
            node.abandon()

    def send_signal(self, number: int) -> None:
        """Send a signal to every host that runs."""
        for node in self.running:
            node.send_signal(number)

    def exit_code(self) -> int:
        """Return the run's exit code: after a signal 128 plus its number, else a failure's.

        The first failure's is used, or another's if the first is only ssh's.
        """
        if self.first_failed is None:
            return 0
        if self.received:
            return SIGNALLED + self.received[0]
        codes = [self.first_failed.code, *(node.code for node in self.nodes)]
        return next((code for code in codes if code and code != SSH_FAILED), 1)


def describe_end(node: HostCommand, code: int) -> str:
    """Return how a command ended, with the name of its host."""
    if code == SSH_FAILED:
        return Phrase("{name} failed ({reason})", name=node.name, reason=last_line(node.last_error))
    return Phrase("{name} ended with exit code {code}", name=node.name, code=code)


def say(line: str) -> None:
    """Print a line to standard error, between those of the hosts."""
    with _WRITING:
        print_text(line, file=sys.stderr)
