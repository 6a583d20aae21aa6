"""Clock of a rank's stages: seconds of the device in each since the last reading.

Stages are those of launcher/faults/rank_stages.py, and ``AGREEMENT``.
"""

import time
from typing import Any

import torch

AGREEMENT = "agreement"
"""Between the forward pass and the backward pass: ranks tell each other of the loss."""


class StageClock:
    """A clock that every stage starts anew; on a GPU it is read by the device, which works behind
    the host."""

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
