"""Nodes on one machine: network namespaces joined by a cable.

A node reaches the others over its interface only, which ``tc`` can slow down and ``ip`` can take
down. The nodes share the disk, as nodes share a run directory. Needs root and iproute2.
"""

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

INTERFACE = "cable0"


def why_not() -> str | None:
    """Return why no namespaces can be made here, or None if they can."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} of iproute2 is not installed"
    name = f"tuneplan-{uuid.uuid4().hex[:8]}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode != 0:
        return f"ip netns add is refused here: {tried.stderr.strip()}"
    _run("ip", "netns", "delete", name)
    return None


@dataclass(frozen=True, slots=True)
class Namespace:
    """One node."""

    name: str
    address: str

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs ``command`` on this node."""
        return ["ip", "netns", "exec", self.name, *command]

    def limit_bytes_per_s(self, rate: int) -> None:
        """Limit the rate at which the node sends, with a bucket of 1/100 s for a kernel that ticks
        250 times per second."""
        burst = max(rate // 100, 16_384)
        _run(
            *("tc", "-netns", self.name, "qdisc", "replace", "dev", INTERFACE, "root", "tbf"),
            *("rate", f"{8 * rate}bit", "burst", f"{burst}", "latency", "200ms"),
        )

    def cut(self) -> None:
        """Unplug its cable."""
        _run("ip", "-netns", self.name, "link", "set", INTERFACE, "down")

    def kill(self) -> None:
        """Kill all of its processes at once, as a power failure does."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def processes(self) -> list[int]:
        return [int(pid) for pid in _run("ip", "netns", "pids", self.name).split()]


@contextmanager
def two_nodes() -> Iterator[tuple[Namespace, Namespace]]:
    """Yield two nodes joined by a cable; their processes end with the block."""
    mark = uuid.uuid4().hex[:8]
    nodes = [Namespace(f"tuneplan-{mark}-{n}", f"10.0.0.{n}") for n in (1, 2)]
    with ExitStack() as stack:
        for node in nodes:
            _run("ip", "netns", "add", node.name)
            stack.callback(_run, "ip", "netns", "delete", node.name)
            stack.callback(node.kill)
        _run(
            *("ip", "link", "add", INTERFACE, "netns", nodes[0].name, "type", "veth"),
            *("peer", "name", INTERFACE, "netns", nodes[1].name),
        )
        for node in nodes:
            _run(
                "ip", "-netns", node.name, "address", "add", f"{node.address}/24", "dev", INTERFACE
            )
            for interface in ("lo", INTERFACE):
                _run("ip", "-netns", node.name, "link", "set", interface, "up")
        yield nodes[0], nodes[1]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
