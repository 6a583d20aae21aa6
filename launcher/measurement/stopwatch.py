"""Seconds of a call: the fastest of its repeats, within the time that is left for all of them."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist

Curve = list[dict[str, float]]
"""Points with their size and the rate there, by ascending size."""
FEWEST = 3
"""Repeats at least; the first ones fill caches and are compiled."""
POINT_SECONDS = 0.05
"""Seconds of repeats that one point may take, as long as there is time."""


class Stopwatch:
    """A clock for calls on one device; with several ranks all of them time together."""

    def __init__(self, device: torch.device, *, until: float) -> None:
        self.device = device
        self._until = until

    @property
    def is_over(self) -> bool:
        """Whether the time for measuring is over; each rest of a curve is then left out."""
        return not self.has(0.0)

    def has(self, seconds: float) -> bool:
        """Return whether every rank has so much time left."""
        return _longest(float(time.monotonic() + seconds > self._until)) == 0

    def seconds(self, call: Callable[[], Any]) -> float:
        """Return the seconds of the fastest call, of the slowest rank.

        The fastest, since another program can make a call slower and never faster.
        """
        if dist.is_initialized():
            dist.barrier()
        spent, times = 0.0, list[float]()
        while len(times) < FEWEST or spent < POINT_SECONDS:
            times.append(self._once(call))
            spent += times[-1]
            if spent > POINT_SECONDS and len(times) > 1:
                break
        return _longest(min(times))

    def seconds_together(self, call: Callable[[], Any]) -> float:
        """Return the same of a collective, which all ranks call equally often."""
        self._once(call)
        first = _longest(self._once(call))
        repeats = max(FEWEST, min(20, round(POINT_SECONDS / first)))
        return _longest(min(self._once(call) for _ in range(repeats)))

    def _once(self, call: Callable[[], Any]) -> float:
        self._wait()
        began = time.perf_counter()
        _held = call()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def curve(
    watch: Stopwatch,
    works: Iterable[tuple[float, Callable[[], Any]]],
    seconds: Callable[[Callable[[], Any]], float],
) -> Curve:
    """Return the rate of each work at its size, by ascending size.

    ``works`` are sizes and calls, the largest first: where the time is over, it alone is timed.
    """
    points: Curve = []
    for size, work in works:
        if points and watch.is_over:
            break
        points.insert(0, {"size": float(size), "per_s": size / seconds(work)})
    return points


def _longest(seconds: float) -> float:
    if not dist.is_initialized():
        return seconds
    on = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    longest = torch.tensor(seconds, dtype=torch.float64, device=on)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    return longest.item()
