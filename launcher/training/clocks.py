"""Clocks of a rank: how long training waits for its batches, and how long each stage takes."""

import time
from collections.abc import Iterator
from typing import Any

import torch

AGREEMENT = "agreement"
"""Outside of the passes: ranks tell each other of tokens, buffers and the loss."""
BETWEEN = "between"
"""Between two steps: callbacks and logs."""


class BatchClock:
    """A clock that runs while training waits for its data loader."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Seconds in the data loader since the last restart."""
        self.longest = 0
        """Tokens of a row, padding included, in the longest batch of the whole run."""
        self._tokens = self._batches = 0

    def restart(self) -> None:
        """Set the seconds to zero."""
        self.seconds = 0.0

    def note_length(self, num_tokens: int) -> None:
        """Note how many tokens a row of a batch has, padding included."""
        self.longest = max(self.longest, num_tokens)
        self._tokens += num_tokens
        self._batches += 1

    @property
    def mean_tokens(self) -> int:
        """Mean over all batches of the tokens of a row, padding included."""
        return round(self._tokens / max(1, self._batches))

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches of one step, and count the seconds until they come."""
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - began
            yield batch


class StageClock:
    """A clock that every stage starts anew: those of launcher/faults/rank_stages.py and the two of
    this module. On a GPU it is read by the device, which works behind the host."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []

    def enter(self, stage: str) -> None:
        """Note that a stage begins."""
        self._marks.append((stage, self._now()))

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def take(self) -> dict[str, float]:
        """Return the seconds by stage up to now, and begin again in the same stage."""
        if not self._marks:
            return {}
        stage, _ = self._marks[-1]
        self._marks.append((stage, self._now()))
        seconds: dict[str, float] = {}
        for (name, began), (_, ended) in zip(self._marks, self._marks[1:], strict=False):
            seconds[name] = seconds.get(name, 0.0) + self._between(began, ended)
        self._marks = self._marks[-1:]
        return seconds

    def _between(self, began: Any, ended: Any) -> float:
        if not self._on_gpu:
            return float(ended - began)
        ended.synchronize()
        return float(began.elapsed_time(ended)) / 1000
