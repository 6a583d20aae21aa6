"""How far a run is: a live view on a terminal, elsewhere a line per logged step."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol, TextIO

from rich.live import Live

from launcher.display.console import console_on
from launcher.display.curve import History
from launcher.display.live_view import Expected, Frame, View, plain_line
from launcher.display.sensors import Gauge, Sensors
from launcher.display.utilisation import Loss
from planner.base.phrases import Phrase
from planner.base.printable import print_text

SENSOR_SECONDS = 1.0
"""Seconds for which a reading of the gauges is kept."""
FRAMES_PER_SECOND = 2
"""Frames of the live view: one takes 2 ms of the interpreter, for which training waits."""


class Progress:
    """What a display shows of a run; the trainer's callbacks keep it up to date."""

    def __init__(self, expected: Expected, sensors: Sensors) -> None:
        self._expected = expected
        self._sensors = sensors
        self._gauges: list[Gauge] = []
        self._read_at = float("-inf")
        self._metrics: Mapping[str, float] = {}
        self._losses = History()
        self._idle: Loss | None = None
        self.start(0, 0)

    def start(self, step: int, num_steps: int) -> None:
        """Begin after ``step`` of ``num_steps`` optimizer steps."""
        self._num_steps = num_steps
        self._began = time.perf_counter()
        self._first: tuple[int, float] | None = None
        """Number and end of the first step that was seen, which is slower than the others."""
        self._last = (step, self._began)

    def advance(self, step: int) -> None:
        """Record that a step has ended."""
        self._last = (step, time.perf_counter())
        self._first = self._first or self._last

    def log(self, metrics: Mapping[str, float], idle: Loss | None = None) -> None:
        """Record the metrics of a logged step, and what keeps devices idle most, if anything."""
        self._idle = idle
        self._metrics = metrics
        self._losses.add(metrics["loss"])

    def gauges(self) -> list[Gauge]:
        """Return the gauges, which are read once per second at most."""
        if time.perf_counter() - self._read_at >= SENSOR_SECONDS:
            self._gauges = self._sensors.read()
            self._read_at = time.perf_counter()
        return self._gauges

    def view(self) -> View:
        """Return the run as it is now."""
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
            idle=self._idle,
            gauges=self.gauges(),
        )

    def _left_s(self, now: float) -> float | None:
        """Return the expected seconds to the end, from the mean of all steps after the first."""
        step, ended = self._last
        if step >= self._num_steps:
            return 0.0
        if self._first is None or step == self._first[0]:
            return None
        per_step = (ended - self._first[1]) / (step - self._first[0])
        return max(0.0, per_step * (self._num_steps - step) - (now - ended))


class Display(Protocol):
    """Where a run's progress is shown."""

    def start(self) -> None:
        """Begin to show it."""

    def logged(self) -> None:
        """Show the step that has just been logged."""

    def stop(self) -> None:
        """Stop, and leave what was shown last."""


class LiveDisplay:
    """A frame that is redrawn several times per second; the last one stays."""

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
        """Return the frame in the terminal's size, which rich would ask of standard streams."""
        with suppress(OSError):  # the terminal was closed
            size = os.get_terminal_size(self._stream.fileno())
            self._console.size = (size.columns or 80, size.lines or 25)
        return Frame(self._progress.view())

    def start(self) -> None:
        """Draw the first frame."""
        self._live.start()
        # The cursor stays visible: a rank that is killed could not bring it back.
        self._console.show_cursor(True)

    def logged(self) -> None:
        """Do nothing: the next frame shows the step."""

    def stop(self) -> None:
        """Draw the last frame, which stays."""
        self._live.stop()


class PlainDisplay:
    """A line per logged step, for pipes and files."""

    def __init__(self, progress: Progress, stream: TextIO) -> None:
        self._progress = progress
        self._stream = stream
        self._cause: str | None = None

    def start(self) -> None:
        """Do nothing: the first logged step is the first line."""

    def logged(self) -> None:
        """Print the logged step, and what keeps devices idle when that has changed."""
        view = self._progress.view()
        print_text(plain_line(view), file=self._stream)
        cause = None if view.idle is None else view.idle.cause
        if view.idle is not None and cause != self._cause:
            print_text(Phrase("note: {note}", note=view.idle.text), file=self._stream)
        self._cause = cause

    def stop(self) -> None:
        """Do nothing: all lines are printed."""


def display_on(stream: TextIO, progress: Progress) -> Display:
    """Return a live display if the stream is a terminal that can show one, else a plain one."""
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return LiveDisplay(progress, stream)
    return PlainDisplay(progress, stream)
