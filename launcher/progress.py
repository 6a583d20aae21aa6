"""How far a run is: one live line on a terminal, elsewhere a line a logged step.

Metrics go to disk beside it.
"""

import json
import time
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from planner.units import format_duration

METRICS = ("loss", "learning_rate", "grad_norm", "epoch", "tokens_per_second", "step_time_s")


class Display(Protocol):
    def start(self, num_steps: int) -> None: ...
    def advance(self, step: int) -> None: ...
    def show(self, step: int, metrics: dict[str, float]) -> None: ...
    def stop(self) -> None: ...


class LiveDisplay:
    """A bar with the newest loss and the time that is left."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            console=console,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("training", total=None, metrics="")

    def start(self, num_steps: int) -> None:
        self._bar.update(self._task, total=num_steps)
        self._bar.start()

    def advance(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def show(self, step: int, metrics: dict[str, float]) -> None:
        self._bar.update(self._task, metrics=_metrics_text(metrics))

    def stop(self) -> None:
        self._bar.stop()


class PlainDisplay:
    """For pipes and files: nothing is ever overwritten."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._num_steps = 0
        self._started = time.perf_counter()

    def start(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._started = time.perf_counter()

    def advance(self, step: int) -> None:
        pass

    def show(self, step: int, metrics: dict[str, float]) -> None:
        left = (time.perf_counter() - self._started) / step * (self._num_steps - step)
        line = f"step {step}/{self._num_steps}  {_metrics_text(metrics)}"
        print(f"{line}  {format_duration(left)} left", file=self._stream, flush=True)

    def stop(self) -> None:
        pass


def display_on(stream: TextIO) -> Display:
    console = Console(file=stream)
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(stream)


def _metrics_text(metrics: dict[str, float]) -> str:
    return f"loss {metrics['loss']:.4f}  {metrics['tokens_per_second']:,.0f} tokens/s"


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

    def __init__(self, display: Display, metrics_file: Path) -> None:
        self._display = display
        self._file = metrics_file.open("a", encoding="utf-8", buffering=1)
        self.losses: list[float] = []
        self.tokens_per_second: list[float] = []

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self._display.start(state.max_steps)

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self._display.advance(state.global_step)

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        metrics = {name: float(logs[name]) for name in METRICS if name in logs}
        self._file.write(json.dumps({"step": state.global_step, **metrics}) + "\n")
        self.losses.append(metrics["loss"])
        self.tokens_per_second.append(metrics["tokens_per_second"])
        self._display.show(state.global_step, metrics)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._display.stop()
        self._file.close()
