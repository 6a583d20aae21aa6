"""The program of the first meeting's ranks: they exchange the nodes' facts and measure the links.

python -m torch.distributed.run ... -m launcher.nodes.meeting FACTS RESULT FOLDER
"""

import argparse
import json
import os
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from launcher.nodes.link_speed import (
    all_reduce_bytes_per_s,
    clock_beside_first,
    rounds,
    send_bytes_per_s,
)
from launcher.nodes.meeting_result import Clock, Link, MeetingResult, write_result
from launcher.nodes.node_facts import NodeFacts
from launcher.run.end_with_parent import end_with_parent
from launcher.run.process import LOOK_SECONDS

LIMIT = timedelta(seconds=120)
"""Time limit of one message: a quarter of a MiB over a tenth of Ethernet's first speed."""
SEEN_SECONDS = 10.0
"""Seconds for a file to be seen on another node: NFS caches what it knows of a folder."""


def meet(facts: NodeFacts, folder: Path, *, on_gpus: bool) -> MeetingResult:
    """Return the result of the meeting, which is the same on every node.

    ``folder`` is the run directory, and ``facts`` those of this node; all ranks call it together.
    """
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpus else torch.device("cpu")
    per_node = int(os.environ["LOCAL_WORLD_SIZE"])
    count = dist.get_world_size() // per_node
    own_node, local_rank = divmod(dist.get_rank(), per_node)
    first_ranks = [node * per_node for node in range(count)]
    nodes: list[NodeFacts] = _gathered(facts)[::per_node]
    seen = _gathered(sees_token(facts, folder, first=local_rank == 0))[::per_node]
    group = dist.new_group(backend="nccl", timeout=LIMIT) if on_gpus else None
    rate = all_reduce_bytes_per_s(count, device, group)
    clock, sent = Clock(offset_s=0.0, error_s=0.0), list[Link]()
    if local_rank == 0:
        clock = clock_beside_first(own_node, first_ranks, None)
        sent = _links_to_neighbours(own_node, first_ranks, device, group)
    clocks = _gathered(clock)[::per_node]
    return MeetingResult(
        nodes=nodes,
        sees_folder=seen,
        clocks=clocks,
        all_reduce_bytes_per_s=rate,
        links=[link for links in _gathered(sent) for link in links],
    )


def _links_to_neighbours(
    own_node: int, ranks: list[int], device: torch.device, group: Any
) -> list[Link]:
    """Return the links from this node to its neighbours in the ring, measured."""
    links = []
    directions = (
        (sender, receiver)
        for pairs in rounds(len(ranks))
        for pair in pairs
        if own_node in pair
        for sender, receiver in (pair, pair[::-1])
    )
    for sender, receiver in directions:
        rate = send_bytes_per_s(ranks[sender], ranks[receiver], ranks[own_node], device, group)
        if rate is not None:
            links.append(Link(sender=sender, receiver=receiver, bytes_per_s=rate))
    return links


def sees_token(facts: NodeFacts, folder: Path, *, first: bool) -> bool:
    """Return whether this node sees a file in the folder that the leader has just put there.

    All ranks call it together; ``first`` is whether this is the first rank of its node.
    """
    token = f".token-{uuid.uuid4().hex}" if facts.leads and first else None
    if token is not None:
        (folder / token).touch()
    name: str = next(name for name in _gathered(token) if name is not None)
    end = time.monotonic() + SEEN_SECONDS
    while not (folder / name).is_file() and time.monotonic() < end:
        time.sleep(LOOK_SECONDS)
    seen = (folder / name).is_file()
    dist.barrier()
    if token is not None:
        (folder / token).unlink()
    return seen


def _gathered(value: Any) -> list[Any]:
    """Return the values of all ranks, in rank order."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def main() -> None:
    """Meet as one rank; the first rank of a node writes the result."""
    end_with_parent()
    parser = argparse.ArgumentParser(prog="launcher.nodes.meeting")
    parser.add_argument("facts", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--on-gpus", action="store_true")
    given = parser.parse_args()
    if given.on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("gloo", timeout=LIMIT)
    facts = NodeFacts(**json.loads(given.facts.read_bytes()))
    result = meet(facts, given.folder, on_gpus=given.on_gpus)
    if int(os.environ["LOCAL_RANK"]) == 0:
        write_result(given.result, result)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
