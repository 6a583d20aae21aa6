"""The result of a meeting, as every node keeps it; no training stack is imported."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.nodes.node_facts import NodeFacts
from launcher.storage.json_files import write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """A node's clock beside the first node's."""

    offset_s: float
    """Seconds by which it is ahead."""
    error_s: float
    """Uncertainty of the offset: half of the shortest round trip, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction of a link between two nodes, which are given by their numbers."""

    sender: int
    receiver: int
    bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MeetingResult:
    """What the nodes found out about each other, in the order of their ranks."""

    nodes: Sequence[NodeFacts]
    sees_folder: Sequence[bool]
    """Whether each node sees the leader's run directory."""
    clocks: Sequence[Clock]
    all_reduce_bytes_per_s: float
    """Bytes per second that an all-reduce moves past a node in one direction."""
    links: Sequence[Link]

    @property
    def leader(self) -> NodeFacts:
        """The node that has the endpoint."""
        return next(node for node in self.nodes if node.leads)

    @property
    def slowest(self) -> Link:
        """The link with the lowest bandwidth."""
        return min(self.links, key=lambda link: link.bytes_per_s)


def write_result(path: Path, result: MeetingResult) -> None:
    """Write a result as JSON, whole."""
    write_json(path, asdict(result))


def read_result(path: Path) -> MeetingResult:
    """Return the result that ``write_result`` wrote."""
    content = json.loads(path.read_bytes())
    return MeetingResult(
        **content
        | {
            "nodes": [NodeFacts(**node) for node in content["nodes"]],
            "clocks": [Clock(**clock) for clock in content["clocks"]],
            "links": [Link(**link) for link in content["links"]],
        }
    )
