"""What a meeting has found, as each node keeps it; imports no training stack."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.nodes.node_facts import Facts
from launcher.storage.json_files import write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    offset_s: float
    """Ahead of the first node's."""
    error_s: float
    """Half of the shortest round trip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction between two nodes, by their numbers."""

    sender: int
    receiver: int
    bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """Of every node, in the order of their ranks."""

    nodes: Sequence[Facts]
    sees_folder: Sequence[bool]
    """Whether it is the run directory of the one that leads."""
    clocks: Sequence[Clock]
    all_reduce_bytes_per_s: float
    """Past each node, one direction."""
    links: Sequence[Link]

    @property
    def leader(self) -> Facts:
        return next(node for node in self.nodes if node.leads)

    @property
    def slowest(self) -> Link:
        return min(self.links, key=lambda link: link.bytes_per_s)


def write_met(path: Path, met: Met) -> None:
    write_json(path, asdict(met))


def read_met(path: Path) -> Met:
    content = json.loads(path.read_bytes())
    return Met(
        **content
        | {
            "nodes": [Facts(**each) for each in content["nodes"]],
            "clocks": [Clock(**each) for each in content["clocks"]],
            "links": [Link(**each) for each in content["links"]],
        }
    )
