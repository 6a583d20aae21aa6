"""Callbacks of rank 0 that show a run's progress, and write its metrics to disk."""

import json
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from transformers import TrainerCallback

from launcher.display.live_view import Expected
from launcher.display.progress import Progress, display_on
from launcher.display.sensors import Gauge, NvmlSensors, ResidentSensors, Sensors
from launcher.display.utilisation import Loss
from planner.plan.schema import Plan

METRICS = (
    "loss",
    "learning_rate",
    "grad_norm",
    "epoch",
    "tokens_per_second",
    "step_time_s",
    "data_wait_s",
)


def sensors_of(plan: Plan, pids: Sequence[int]) -> Sensors:
    """Return what reads this node's GPUs, or its ranks' processes if the plan is for the CPU.

    ``pids`` are the processes of all ranks, in rank order.
    """
    here = plan.parallel.gpus_per_node
    if plan.hardware.device == "cpu":
        return ResidentSensors(pids[:here])
    return NvmlSensors([str(torch.cuda.get_device_properties(i).uuid) for i in range(here)])


class StepTimes(TrainerCallback):  # type: ignore[misc]
    """Wall time of every optimizer step, in seconds."""

    def __init__(self) -> None:
        self.step_times_s = array("d")
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.step_times_s.append(time.perf_counter() - self._began)


class Reporter(TrainerCallback):  # type: ignore[misc]
    """The display of a run, and ``metrics.jsonl`` with one object per logged step."""

    def __init__(
        self,
        stream: TextIO,
        metrics_file: Path,
        *,
        expected: Expected,
        sensors: Sensors,
        losses: Callable[[], list[Loss]],
    ) -> None:
        self._losses = losses
        self._progress = Progress(expected, sensors)
        self._display = display_on(stream, self._progress)
        self._file = metrics_file.open("a", encoding="utf-8", buffering=1)
        self.tokens_per_second = array("d")

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self._progress.start(state.global_step, state.max_steps)
        self._display.start()

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self._progress.advance(state.global_step)

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        metrics = {name: float(logs[name]) for name in METRICS if name in logs}
        found = self._losses() if state.global_step > 1 else []
        self._progress.log(metrics, found[0] if found else None)
        self.tokens_per_second.append(metrics["tokens_per_second"])
        row = {"step": state.global_step, **metrics, **_readings(self._progress.gauges())}
        self._file.write(json.dumps(row) + "\n")
        self._display.logged()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._display.stop()
        self._file.close()


def _readings(gauges: list[Gauge]) -> dict[str, int]:
    """Return the fullest device, the hottest one and the power of all, if known."""
    peaks = [gauge.peak_bytes for gauge in gauges if gauge.peak_bytes is not None]
    heats = [gauge.temperature_c for gauge in gauges if gauge.temperature_c is not None]
    powers = [gauge.power_watts for gauge in gauges if gauge.power_watts is not None]
    return {
        **({"peak_used_bytes": max(peaks)} if peaks else {}),
        **({"temperature_c": max(heats)} if heats else {}),
        **({"power_watts": sum(powers)} if powers else {}),
    }
