"""A run of a few steps as its trainer would report it."""

from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

from launcher.display.live_view import expected_of
from launcher.display.sensors import Gauge
from launcher.training.progress_callbacks import Reporter
from planner.base.units import GIB
from tests.launcher.plans import plan

LOGS = {
    "loss": 1.5,
    "learning_rate": 2e-4,
    "tokens_per_second": 1200.0,
    "step_time_s": 0.5,
    "data_wait_s": 0.1,
    "entropy": 3.0,
}


class OneGpu:
    """Gauges that say the same each time."""

    def __init__(self) -> None:
        self.times_read = 0

    def read(self) -> list[Gauge]:
        self.times_read += 1
        return [
            Gauge(
                name="GPU 0",
                used_bytes=GIB,
                peak_bytes=2 * GIB,
                temperature_c=60,
                power_watts=250,
            )
        ]


def run_through(stream: TextIO, metrics: Path, *, steps: int = 2) -> Reporter:
    reporter = Reporter(
        stream, metrics, expected=expected_of(plan()), sensors=OneGpu(), losses=list
    )
    reporter.on_train_begin(None, SimpleNamespace(global_step=0, max_steps=steps), None)
    for step in range(1, steps + 1):
        state = SimpleNamespace(global_step=step)
        reporter.on_step_end(None, state, None)
        reporter.on_log(None, state, None, logs=LOGS)
    reporter.on_log(None, SimpleNamespace(global_step=steps), None, logs={"train_runtime": 3.0})
    reporter.on_train_end()
    return reporter
