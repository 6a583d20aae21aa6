"""What the ranks of the first meeting run: each node's facts to all others, and the links measured.

python -m torch.distributed.run ... -m launcher.nodes.meeting FACTS MET FOLDER
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
from launcher.nodes.meeting_result import Clock, Link, Met, write_met
from launcher.nodes.node_facts import Facts
from launcher.run.end_with_parent import end_with_parent
from launcher.run.process import LOOK_SECONDS

LIMIT = timedelta(seconds=120)
"""For one message: a quarter of a MiB over a tenth of Ethernet's first speed."""
SEEN_SECONDS = 10.0
"""For a file to be seen on another node: NFS keeps what it knows of a folder for a while."""


def meet(facts: Facts, folder: Path, *, on_gpus: bool) -> Met:
    """The same on every node."""
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpus else torch.device("cpu")
    per_node = int(os.environ["LOCAL_WORLD_SIZE"])
    count = dist.get_world_size() // per_node
    own, speaks = divmod(dist.get_rank(), per_node)
    speakers = [node * per_node for node in range(count)]
    everyone: list[Facts] = _gathered(facts)[::per_node]
    seen = _gathered(sees_token(facts, folder, first=speaks == 0))[::per_node]
    group = dist.new_group(backend="nccl", timeout=LIMIT) if on_gpus else None
    rate = all_reduce_bytes_per_s(count, device, group)
    clock, sent = Clock(offset_s=0.0, error_s=0.0), list[Link]()
    if speaks == 0:
        clock = clock_beside_first(own, count, speakers, None)
        sent = _to_neighbours(own, speakers, device, group)
    clocks = _gathered(clock)[::per_node]
    return Met(
        nodes=everyone,
        sees_folder=seen,
        clocks=clocks,
        all_reduce_bytes_per_s=rate,
        links=[link for each in _gathered(sent) for link in each],
    )


def _to_neighbours(own: int, speakers: list[int], device: torch.device, group: Any) -> list[Link]:
    """From this node to those beside it in the ring."""
    found = []
    for pairs in rounds(len(speakers)):
        for pair in pairs:
            for sender, receiver in (pair, pair[::-1]):
                if own in pair:
                    rate = send_bytes_per_s(
                        speakers[sender], speakers[receiver], speakers[own], device, group
                    )
                    if rate is not None:
                        found.append(Link(sender=sender, receiver=receiver, bytes_per_s=rate))
    return found


def sees_token(facts: Facts, folder: Path, *, first: bool) -> bool:
    """Whether this node finds in the folder what the one that leads has just put there."""
    token = f".token-{uuid.uuid4().hex}" if facts.leads and first else None
    if token is not None:
        (folder / token).touch()
    name: str = next(each for each in _gathered(token) if each is not None)
    end = time.monotonic() + SEEN_SECONDS
    while not (folder / name).is_file() and time.monotonic() < end:
        time.sleep(LOOK_SECONDS)
    seen = (folder / name).is_file()
    dist.barrier()
    if token is not None:
        (folder / token).unlink()
    return seen


def _gathered(own: Any) -> list[Any]:
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return everyone


def main() -> None:
    end_with_parent()
    parser = argparse.ArgumentParser(prog="launcher.nodes.meeting")
    parser.add_argument("facts", type=Path)
    parser.add_argument("met", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--on-gpus", action="store_true")
    given = parser.parse_args()
    if given.on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("gloo", timeout=LIMIT)
    facts = Facts(**json.loads(given.facts.read_bytes()))
    met = meet(facts, given.folder, on_gpus=given.on_gpus)
    if int(os.environ["LOCAL_RANK"]) == 0:
        write_met(given.met, met)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
