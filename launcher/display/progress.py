"""How far a run is: a live view on a terminal, elsewhere a line per logged step."""

import os
import time
from collections.abc import Mapping
from typing import Protocol, TextIO

from rich.live import Live

from launcher.display.console import console_on
from launcher.display.curve import History
from launcher.display.live_view import Expected, Frame, View, plain_line
from launcher.display.sensors import Gauge, Sensors

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
