"""The speed of the links between nodes, and the differences of their clocks.

An all-reduce of n bytes moves 2 n (N - 1) / N bytes past each of N nodes
(planner/hardware/network.py). Sizes grow until one takes so long that its start does not count.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from launcher.nodes.meeting_result import Clock

SIZES = tuple(2**18 * 4**n for n in range(5))
"""Bytes of the messages that are timed: 256 KiB to 64 MiB."""
LONG_SECONDS = 0.25
"""Seconds after which no larger message is tried."""
ROUND_TRIPS = 8
"""Number of round trips by which two clocks are compared; the shortest one counts."""


def all_reduce_bytes_per_s(num_nodes: int, device: torch.device, group: Any = None) -> float:
    """Return the bytes per second that an all-reduce moves past a node in one direction.

    That is of the largest size that was tried. All ranks call it together.
    """
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
    """Return the neighbours in a ring of nodes, in rounds in which a node is in one pair at most.

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
    sender: int, receiver: int, own_rank: int, device: torch.device, group: Any = None
) -> float | None:
    """Return the bytes per second of one direction of a link; None on the receiver.

    The ranks ``sender`` and ``receiver`` call it together.
    """
    rate = None
    for size in SIZES:
        tensor = torch.zeros(size, dtype=torch.uint8, device=device)
        answer = torch.zeros(1, device=device)
        if own_rank == receiver:
            for _ in range(2):
                dist.recv(tensor, sender, group=group)
                dist.send(answer, sender, group=group)
            dist.recv(answer, sender, group=group)
            if answer.item():
                break
            continue

        def there_and_back(sent: torch.Tensor = tensor, reply: torch.Tensor = answer) -> None:
            dist.send(sent, receiver, group=group)
            dist.recv(reply, receiver, group=group)

        _timed(there_and_back)
        seconds = _timed(there_and_back)
        rate = size / seconds
        last = seconds > LONG_SECONDS
        dist.send(torch.full_like(answer, float(last)), receiver, group=group)
        if last:
            break
    return rate


def clock_beside_first(
    own_node: int, ranks: list[int], group: Any, now: Callable[[], float] = time.time
) -> Clock:
    """Return the clock of the node ``own_node`` beside the first node's.

    ``ranks`` has one rank per node; all of these call it together.
    """
    clock = Clock(offset_s=0.0, error_s=0.0)
    for node in range(1, len(ranks)):
        if own_node == 0:
            for _ in range(ROUND_TRIPS):
                dist.recv(torch.zeros(1, dtype=torch.float64), ranks[node], group=group)
                dist.send(torch.tensor([now()], dtype=torch.float64), ranks[node], group=group)
        elif own_node == node:
            clock = min(_round_trips(ranks[0], group, now), key=lambda trip: trip.error_s)
    return clock


def _round_trips(first: int, group: Any, now: Callable[[], float]) -> Iterator[Clock]:
    for _ in range(ROUND_TRIPS):
        first_time = torch.zeros(1, dtype=torch.float64)
        began, began_at = time.perf_counter(), now()
        dist.send(first_time, first, group=group)
        dist.recv(first_time, first, group=group)
        half_s = (time.perf_counter() - began) / 2
        yield Clock(offset_s=began_at + half_s - first_time.item(), error_s=half_s)


def _timed(what: Callable[[], Any]) -> float:
    """Return the seconds until the device has finished a call."""
    began = time.perf_counter()
    what()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _longest(seconds: float) -> float:
    """Return the longest time of all ranks, so that they all decide alike."""
    longest = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    return longest.item()
