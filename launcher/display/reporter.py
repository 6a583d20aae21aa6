"""How far a run is: a live view on a terminal, elsewhere a line a logged step.

Metrics go to disk beside it. Only rank 0 has a display.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.live import Live
from transformers import TrainerCallback

from launcher.display.console import console_on
from launcher.display.curve import History
from launcher.display.live_view import Expected, Frame, View, plain_line
from launcher.display.sensors import Gauge, Sensors

METRICS = (
    "loss",
    "learning_rate",
    "grad_norm",
    "epoch",
    "tokens_per_second",
    "step_time_s",
    "data_wait_s",
)
SENSOR_SECONDS = 1.0
FRAMES_PER_SECOND = 2
"""A frame takes 2 ms of the interpreter, which training waits for."""


class Progress:
    """What a display shows, kept up to date by the reporter."""

    def __init__(self, expected: Expected, sensors: Sensors) -> None:
        self._expected = expected
        self._sensors = sensors
        self._gauges: list[Gauge] = []
        self._read_at = float("-inf")
        self._metrics: Mapping[str, float] = {}
        self._losses = History()
        self.start(0, 0)

    def start(self, step: int, num_steps: int) -> None:
        self._num_steps = num_steps
        self._began = time.perf_counter()
        self._first: tuple[int, float] | None = None
        """The end of the first step that was seen: it is slower than the others."""
        self._last = (step, self._began)

    def advance(self, step: int) -> None:
        self._last = (step, time.perf_counter())
        self._first = self._first or self._last

    def log(self, metrics: Mapping[str, float]) -> None:
        self._metrics = metrics
        self._losses.add(metrics["loss"])

    def gauges(self) -> list[Gauge]:
        """Read at most once a second."""
        if time.perf_counter() - self._read_at >= SENSOR_SECONDS:
            self._gauges = self._sensors.read()
            self._read_at = time.perf_counter()
        return self._gauges

    def view(self) -> View:
        now = time.perf_counter()
        return View(
            expected=self._expected,
            step=self._last[0],
            num_steps=self._num_steps,
            elapsed_s=now - self._began,
            left_s=self._left_s(now),
            losses=self._losses.means,
            first_loss=self._losses.first,
            least_loss=self._losses.least,
            metrics=self._metrics,
            gauges=self.gauges(),
        )

    def _left_s(self, now: float) -> float | None:
        """From the mean of the steps behind the first."""
        step, ended = self._last
        if step >= self._num_steps:
            return 0.0
        if self._first is None or step == self._first[0]:
            return None
        per_step = (ended - self._first[1]) / (step - self._first[0])
        return max(0.0, per_step * (self._num_steps - step) - (now - ended))


class Display(Protocol):
    def start(self) -> None: ...
    def logged(self) -> None: ...
    def stop(self) -> None: ...


class LiveDisplay:
    """A frame that is drawn again and again; the last one stays."""

    def __init__(self, progress: Progress, stream: TextIO) -> None:
        self._progress = progress
        self._stream = stream
        self._console = console_on(stream, is_terminal=True)
        self._live = Live(
            console=self._console,
            get_renderable=self._frame,
            refresh_per_second=FRAMES_PER_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def _frame(self) -> Frame:
        """Fits the terminal as it is now; rich looks at standard streams, which are logs here."""
        size = os.get_terminal_size(self._stream.fileno())
        self._console.size = (size.columns or 80, size.lines or 25)
        return Frame(self._progress.view())

    def start(self) -> None:
        self._live.start()
        # Visible, on the empty line below the frame: a rank that is killed puts nothing back.
        self._console.show_cursor(True)

    def logged(self) -> None:
        """The next frame shows it."""

    def stop(self) -> None:
        self._live.stop()


class PlainDisplay:
    """For pipes and files: nothing is ever overwritten."""

    def __init__(self, progress: Progress, stream: TextIO) -> None:
        self._progress = progress
        self._stream = stream

    def start(self) -> None:
        """The first step will say something."""

    def logged(self) -> None:
        print(plain_line(self._progress.view()), file=self._stream, flush=True)

    def stop(self) -> None:
        """All is said."""


def display_on(stream: TextIO, progress: Progress) -> Display:
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return LiveDisplay(progress, stream)
    return PlainDisplay(progress, stream)


class StepTimes(TrainerCallback):  # type: ignore[misc]
    """Wall time of every optimizer step; restarts the trainer's clock when training begins."""

    def __init__(self) -> None:
        self.step_times_s: list[float] = []
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.step_times_s.append(time.perf_counter() - self._began)


class Reporter(TrainerCallback):  # type: ignore[misc]
    """On rank 0: the display, and ``metrics.jsonl`` with one object a logged step."""

    def __init__(
        self, stream: TextIO, metrics_file: Path, *, expected: Expected, sensors: Sensors
    ) -> None:
        self._progress = Progress(expected, sensors)
        self._display = display_on(stream, self._progress)
        self._file = metrics_file.open("a", encoding="utf-8", buffering=1)
        self.losses: list[float] = []
        self.tokens_per_second: list[float] = []

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self._progress.start(state.global_step, state.max_steps)
        self._display.start()

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self._progress.advance(state.global_step)

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        metrics = {name: float(logs[name]) for name in METRICS if name in logs}
        self._progress.log(metrics)
        self.losses.append(metrics["loss"])
        self.tokens_per_second.append(metrics["tokens_per_second"])
        row = {"step": state.global_step, **metrics, **_readings(self._progress.gauges())}
        self._file.write(json.dumps(row) + "\n")
        self._display.logged()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._display.stop()
        self._file.close()


def _readings(gauges: list[Gauge]) -> dict[str, int]:
    """The fullest device, the hottest one, the power of all; what is not told is left out."""
    peaks = [gauge.peak_bytes for gauge in gauges if gauge.peak_bytes is not None]
    heats = [gauge.temperature_c for gauge in gauges if gauge.temperature_c is not None]
    powers = [gauge.power_watts for gauge in gauges if gauge.power_watts is not None]
    return {
        **({"peak_used_bytes": max(peaks)} if peaks else {}),
        **({"temperature_c": max(heats)} if heats else {}),
        **({"power_watts": sum(powers)} if powers else {}),
    }
