"""How fast the nodes reach each other, and how far their clocks are apart.

An all-reduce of n bytes moves 2 n (N - 1) / N bytes past each of N nodes
(planner/hardware/network.py). Sizes grow until one takes long enough to be told from what starting
it costs.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from launcher.nodes.meeting_result import Clock

SIZES = tuple(2**18 * 4**n for n in range(5))
"""Bytes: 256 KiB to 64 MiB."""
LONG_SECONDS = 0.25
ROUND_TRIPS = 8


def all_reduce_bytes_per_s(num_nodes: int, device: torch.device, group: Any = None) -> float:
    """Past each node in one direction, of the largest size that was tried; called by all ranks."""
    rate = 0.0
    for size in SIZES:
        tensor = torch.zeros(size // 4, device=device)
        seconds = 0.0
        for _ in range(2):  # the first opens connections
            seconds = _longest(_timed(partial(dist.all_reduce, tensor, group=group)))
        rate = 2 * size * (num_nodes - 1) / num_nodes / seconds
        if seconds > LONG_SECONDS:
            break
    return rate


def rounds(count: int) -> list[list[tuple[int, int]]]:
    """Every node beside the next in a ring, in rounds in which each is in one pair at most.

    >>> rounds(2)
    [[(0, 1)]]
    >>> rounds(5)
    [[(0, 1), (2, 3)], [(1, 2), (3, 4)], [(4, 0)]]
    """
    ring = [(n, (n + 1) % count) for n in range(count if count > 2 else count - 1)]
    last = ring[-1:] if count % 2 and count > 2 else []
    paired = ring[: len(ring) - len(last)]
    return [pairs for pairs in (paired[::2], paired[1::2], last) if pairs]


def send_bytes_per_s(
    sender: int, receiver: int, own: int, device: torch.device, group: Any = None
) -> float | None:
    """One direction of a link; called by both, and its sender knows."""
    rate = None
    for size in SIZES:
        tensor = torch.zeros(size, dtype=torch.uint8, device=device)
        answer = torch.zeros(1, device=device)
        if own == receiver:
            for _ in range(2):
                dist.recv(tensor, sender, group=group)
                dist.send(answer, sender, group=group)
            dist.recv(answer, sender, group=group)
            if answer.item():
                break
            continue

        def there_and_back(each: torch.Tensor = tensor, word: torch.Tensor = answer) -> None:
            dist.send(each, receiver, group=group)
            dist.recv(word, receiver, group=group)

        _timed(there_and_back)
        seconds = _timed(there_and_back)
        rate = size / seconds
        last = seconds > LONG_SECONDS
        dist.send(torch.full_like(answer, float(last)), receiver, group=group)
        if last:
            break
    return rate


def clock_beside_first(
    own: int, count: int, ranks: list[int], group: Any, now: Callable[[], float] = time.time
) -> Clock:
    """Of the node ``own``, asked one after another; ``ranks`` are those that speak for nodes."""
    clock = Clock(offset_s=0.0, error_s=0.0)
    for other in range(1, count):
        if own == 0:
            for _ in range(ROUND_TRIPS):
                asked = torch.zeros(1, dtype=torch.float64)
                dist.recv(asked, ranks[other], group=group)
                dist.send(torch.tensor([now()], dtype=torch.float64), ranks[other], group=group)
        elif own == other:
            clock = min(_round_trips(ranks[0], group, now), key=lambda each: each.error_s)
    return clock


def _round_trips(first: int, group: Any, now: Callable[[], float]) -> Iterator[Clock]:
    for _ in range(ROUND_TRIPS):
        theirs = torch.zeros(1, dtype=torch.float64)
        began, began_at = time.perf_counter(), now()
        dist.send(theirs, first, group=group)
        dist.recv(theirs, first, group=group)
        half_s = (time.perf_counter() - began) / 2
        yield Clock(offset_s=began_at + half_s - theirs.item(), error_s=half_s)


def _timed(what: Callable[[], Any]) -> float:
    """Seconds until the device is done with it."""
    began = time.perf_counter()
    what()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _longest(seconds: float) -> float:
    """Of all ranks: they go on together."""
    longest = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    return longest.item()
